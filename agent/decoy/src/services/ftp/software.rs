//! How each ftp server words its replies.

use time::OffsetDateTime;

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// The programs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Vsftpd,
    ProFtpd,
    PureFtpd,
    BusyBox,
    Cisco,
    Microsoft,
}

/// Everything a reply says. `{user}` stands for the user's name, `{verb}` for the command.
#[derive(Debug)]
pub(super) struct Software {
    program: Program,
    version: &'static str,
    pub(super) ask_password: &'static str,
    pub(super) user_first: &'static str,
    pub(super) welcome: &'static str,
    pub(super) refusal: &'static str,
    pub(super) ask_login: &'static str,
    pub(super) unknown: &'static str,
    pub(super) system: &'static str,
    /// With their codes and line ends.
    pub(super) features: &'static str,
    pub(super) help: &'static str,
    pub(super) status: &'static str,
    pub(super) goodbye: &'static str,
}

impl Software {
    pub(super) fn of(host: &Host, identity: &Identity) -> Self {
        let second = identity.number("ftp.software", 0..=1) == 1;
        match (host.family, host.distro) {
            (OsFamily::Windows | OsFamily::WindowsServer, _) => MICROSOFT,
            (OsFamily::Embedded, _) => BUSYBOX,
            (OsFamily::Cisco, _) => CISCO,
            (OsFamily::Bsd, _) => PURE_FTPD,
            // Later releases greet without a version, which tells a scanner less than nothing.
            (_, Distro::Centos7) if second => PRO_FTPD,
            _ if second => PURE_FTPD,
            (_, distro) => Self {
                version: match distro {
                    Distro::Centos7 => "3.0.2",
                    Distro::Ubuntu20 | Distro::Debian => "3.0.3",
                    _ => "3.0.5",
                },
                ..VSFTPD
            },
        }
    }

    /// The greeting, with code and line ends. `own` is the decky's own address.
    pub(super) fn greeting(&self, own: &str, anonymous: bool) -> String {
        match self.program {
            Program::Vsftpd => format!("220 (vsFTPd {})\r\n", self.version),
            Program::ProFtpd => format!(
                "220 ProFTPD {} Server (ProFTPD Default Installation) [{own}]\r\n",
                self.version
            ),
            Program::PureFtpd => {
                let now = OffsetDateTime::now_utc();
                let private = if anonymous {
                    ""
                } else {
                    "220-This is a private system - No anonymous login\r\n"
                };
                format!(
                    "220---------- Welcome to Pure-FTPd [privsep] ----------\r\n220-You are user number 1 of 50 allowed.\r\n\
                     220-Local time is now {:02}:{:02}. Server port: 21.\r\n{private}\
                     220-IPv6 connections are also welcome on this server.\r\n\
                     220 You will be disconnected after 15 minutes of inactivity.\r\n",
                    now.hour(),
                    now.minute()
                )
            }
            Program::BusyBox => "220 Operation successful\r\n".to_owned(),
            Program::Cisco => "220 Cisco (1.0) FTP server ready\r\n".to_owned(),
            Program::Microsoft => "220 Microsoft FTP Service\r\n".to_owned(),
        }
    }
}

const VSFTPD: Software = Software {
    program: Program::Vsftpd,
    version: "3.0.3",
    ask_password: "Please specify the password.",
    user_first: "Login with USER first.",
    welcome: "Login successful.",
    refusal: "Login incorrect.",
    ask_login: "Please login with USER and PASS.",
    unknown: "Unknown command.",
    system: "UNIX Type: L8",
    features: "211-Features:\r\n EPRT\r\n EPSV\r\n MDTM\r\n PASV\r\n REST STREAM\r\n SIZE\r\n TVFS\r\n UTF8\r\n211 End\r\n",
    help: "214-The following commands are recognized.\r\n\
           \x20ABOR ACCT ALLO APPE CDUP CWD  DELE EPRT EPSV FEAT HELP LIST MDTM MKD\r\n\
           \x20MODE NLST NOOP OPTS PASS PASV PORT PWD  QUIT REIN REST RETR RMD  RNFR\r\n\
           \x20RNTO SITE SIZE SMNT STAT STOR STOU STRU SYST TYPE USER XCUP XCWD XMKD\r\n\
           \x20XPWD XRMD\r\n214 Help OK.\r\n",
    status: "211-FTP server status:\r\n     Logged in as {user}\r\n     TYPE: ASCII\r\n     No session bandwidth limit\r\n     \
             Session timeout in seconds is 300\r\n     Control connection is plain text\r\n     \
             Data connections will be plain text\r\n211 End of status\r\n",
    goodbye: "221 Goodbye.\r\n",
};

const PRO_FTPD: Software = Software {
    program: Program::ProFtpd,
    version: "1.3.5e",
    ask_password: "Password required for {user}",
    user_first: "Login with USER first",
    welcome: "User {user} logged in",
    refusal: "Login incorrect.",
    ask_login: "Please login with USER and PASS",
    unknown: "{verb} not understood",
    system: "UNIX Type: L8",
    features: "211-Features:\r\n LANG en-US*\r\n MDTM\r\n MFMT\r\n TVFS\r\n UTF8\r\n REST STREAM\r\n EPRT\r\n EPSV\r\n \
               SIZE\r\n211 End\r\n",
    help: "214-The following commands are recognized (* =>'s unimplemented):\r\n\
           \x20CWD     XCWD    CDUP    XCUP    SMNT*   QUIT    PORT    PASV\r\n\
           \x20EPRT    EPSV    ALLO*   RNFR    RNTO    DELE    MDTM    RMD\r\n\
           \x20XRMD    MKD     XMKD    PWD     XPWD    SIZE    SYST    HELP\r\n\
           \x20NOOP    FEAT    OPTS    AUTH*   CCC*    CONF*   ENC*    MIC*\r\n\
           \x20PBSZ*   PROT*   TYPE    STRU    MODE    RETR    STOR    STOU\r\n\
           \x20APPE    REST    ABOR    USER    PASS    ACCT*   REIN*   LIST\r\n\
           \x20NLST    STAT    SITE    MLSD    MLST\r\n214 Direct comments to root@localhost\r\n",
    status: "211-Status of 'ProFTPD Default Installation'\r\n Logged in as {user}\r\n No data connection\r\n211 End of status\r\n",
    goodbye: "221 Goodbye.\r\n",
};

const PURE_FTPD: Software = Software {
    program: Program::PureFtpd,
    version: "",
    ask_password: "User {user} OK. Password required",
    user_first: "Who are you?",
    welcome: "OK. Current directory is /",
    refusal: "Login authentication failed",
    ask_login: "You aren't logged in",
    unknown: "Unknown command",
    system: "UNIX Type: L8",
    features: "211-Extensions supported:\r\n UTF8\r\n EPRT\r\n IDLE\r\n MDTM\r\n SIZE\r\n MFMT\r\n REST STREAM\r\n MLSD\r\n \
               EPSV\r\n211 End.\r\n",
    help: "214-The following SITE commands are recognized\r\n ALIAS\r\n CHMOD\r\n IDLE\r\n UTIME\r\n\
           214 Pure-FTPd - http://pureftpd.org/\r\n",
    status: "211 http://www.pureftpd.org/\r\n",
    goodbye: "221-Goodbye. You uploaded 0 and downloaded 0 kbytes.\r\n221 Logout.\r\n",
};

const BUSYBOX: Software = Software {
    program: Program::BusyBox,
    version: "",
    ask_password: "Specify password",
    user_first: "Login with USER+PASS",
    welcome: "Operation successful",
    refusal: "Login failed",
    ask_login: "Login with USER+PASS",
    unknown: "Unknown command",
    system: "UNIX Type: L8",
    features: "211-Features:\r\n EPSV\r\n PASV\r\n REST STREAM\r\n MDTM\r\n SIZE\r\n211 Ok\r\n",
    help: "214-Features:\r\n EPSV\r\n PASV\r\n REST STREAM\r\n MDTM\r\n SIZE\r\n214 Ok\r\n",
    status: "211-Server status:\r\n TYPE: BINARY\r\n211 Ok\r\n",
    goodbye: "221 Operation successful\r\n",
};

const CISCO: Software = Software {
    program: Program::Cisco,
    version: "",
    ask_password: "Password required",
    user_first: "Login with USER first",
    welcome: "Logged in",
    refusal: "Login failed",
    ask_login: "Please log in with USER and PASS",
    unknown: "Unknown command",
    system: "Cisco IOS Type: L8",
    features: "500 Unknown command\r\n",
    help: "500 Unknown command\r\n",
    status: "500 Unknown command\r\n",
    goodbye: "221 Goodbye\r\n",
};

const MICROSOFT: Software = Software {
    program: Program::Microsoft,
    version: "",
    ask_password: "Password required",
    user_first: "Login with USER first.",
    welcome: "User logged in.",
    refusal: "User cannot log in.",
    ask_login: "Please login with USER and PASS.",
    unknown: "Command not understood.",
    system: "Windows_NT",
    features: "211-Extended features supported:\r\n LANG EN*\r\n UTF8\r\n AUTH TLS;TLS-C;SSL;TLS-P;\r\n PBSZ\r\n PROT C;P;\r\n \
               CCC\r\n HOST\r\n SIZE\r\n MDTM\r\n REST STREAM\r\n211 END\r\n",
    help: "214-The following commands are recognized (* ==>'s unimplemented).\r\n\
           \x20ABOR \r\n ACCT \r\n ALLO \r\n APPE \r\n CDUP \r\n CWD  \r\n DELE \r\n FEAT \r\n HELP \r\n LIST \r\n \
           MDTM \r\n MKD  \r\n NLST \r\n NOOP \r\n OPTS \r\n PASS \r\n PASV \r\n PORT \r\n PWD  \r\n QUIT \r\n \
           RETR \r\n SIZE \r\n STOR \r\n SYST \r\n TYPE \r\n USER \r\n214 HELP command successful.\r\n",
    status: "211-Microsoft FTP Service status:\r\n Logged in as {user}\r\n TYPE: ASCII, FORM: Nonprint; STRUcture: File; \
             transfer MODE: STREAM\r\n No data connection\r\n211 End of status.\r\n",
    goodbye: "221 Goodbye.\r\n",
};
