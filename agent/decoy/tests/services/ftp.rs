use std::io::Cursor;

use suppaftp::{FtpStream, Mode};

use crate::decoy::{Decoy, Start};

/// Logs in, with as many guesses as the seed wants.
fn logged_in(decoy: &Decoy) -> FtpStream {
    for _ in 0..4 {
        let mut ftp = FtpStream::connect(("127.0.0.1", decoy.port)).unwrap();
        for guess in 0..5 {
            if ftp.login("web", &format!("guess{guess}")).is_ok() {
                return ftp;
            }
        }
    }
    panic!("20 guesses are refused");
}

#[test]
fn guesses_listing_and_uploads_are_captured_in_both_passive_modes() {
    let decoy = Decoy::start("ftp");
    for mode in [Mode::Passive, Mode::ExtendedPassive] {
        let mut ftp = logged_in(&decoy);
        ftp.set_mode(mode);
        assert_eq!(ftp.pwd().unwrap(), "/");
        assert!(ftp.list(None).unwrap().iter().all(|row| row.starts_with("drwx")));
        let payload = vec![b'x'; 10_000];
        assert_eq!(
            ftp.put_file("shell.php", &mut Cursor::new(&payload)).unwrap(),
            10_000
        );
        assert!(ftp.retr_as_buffer("etc/passwd").is_err());
        ftp.quit().unwrap();
    }
    assert_eq!(decoy.login("web", "guess0")["event"]["outcome"], "failure");
    let upload = decoy.event("upload", |_| true);
    assert_eq!(upload["file"]["path"], "shell.php");
    assert_eq!(upload["file"]["size"], 10_000);
    assert_eq!(upload["file"]["hash"]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(upload["decnet"]["content"].as_str().unwrap().len(), 4096);
    decoy.event("download", |event| event["file"]["path"] == "etc/passwd");
}

#[test]
fn before_a_login_nothing_is_opened_and_port_is_never_obeyed() {
    let decoy = Decoy::start("ftp");
    let mut visitor = decoy.connect();
    visitor.expect("220 ");
    for command in ["PASV", "LIST", "STOR x", "PWD", "PORT 127,0,0,1,0,22"] {
        visitor.ask(command, "\r\n530 ");
    }
    let mut ftp = logged_in(&decoy);
    assert!(
        ftp.custom_command("PORT 127,0,0,1,0,22", &[suppaftp::Status::CommandOk])
            .is_err()
    );
}

#[test]
fn an_oversized_line_is_cut_in_the_log() {
    let decoy = Decoy::start("ftp");
    let mut visitor = decoy.connect();
    visitor.expect("220 ");
    visitor.ask(&format!("USER {}", "a".repeat(50_000)), "331 ");
    visitor.ask("PASS b", "530 ");
    let event = decoy.event("login", |_| true);
    assert_eq!(
        event["user"]["name"].as_str().unwrap().len(),
        2048 - "USER ".len()
    );
}

#[test]
fn a_windows_machine_answers_as_one() {
    let decoy = Start::new("ftp").with("DECNET_OS_FAMILY", "windows_server").run();
    let mut visitor = decoy.connect();
    visitor.expect("220 Microsoft FTP Service\r\n");
    visitor.ask("SYST", "215 Windows_NT\r\n");
}
