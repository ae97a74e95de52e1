//! Which web server runs on which machine, and its error pages.

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// The `Server` header: a package version the distribution shipped.
pub(super) fn server_header(host: &Host, identity: &Identity) -> &'static str {
    let options: &[&'static str] = match (host.family, host.distro) {
        (OsFamily::Windows | OsFamily::WindowsServer, _) => &["Microsoft-IIS/10.0"],
        (OsFamily::Cisco, _) => &["cisco-IOS"],
        (OsFamily::Embedded, _) => &[
            "lighttpd/1.4.35",
            "GoAhead-Webs",
            "Boa/0.94.14rc21",
            "mini_httpd/1.30 26Oct2018",
        ],
        (OsFamily::Bsd, _) => &["Apache/2.4.57 (FreeBSD)", "nginx/1.24.0"],
        (_, Distro::Debian) => &[
            "Apache/2.4.56 (Debian)",
            "Apache/2.4.57 (Debian)",
            "Apache/2.4.59 (Debian)",
            "Apache/2.4.61 (Debian)",
            "Apache/2.4.62 (Debian)",
            "nginx/1.22.1",
        ],
        (_, Distro::Ubuntu22) => &["Apache/2.4.52 (Ubuntu)", "nginx/1.18.0 (Ubuntu)"],
        (_, Distro::Ubuntu20) => &["Apache/2.4.41 (Ubuntu)", "nginx/1.18.0 (Ubuntu)"],
        (_, Distro::Rocky9) => &[
            "Apache/2.4.53 (Rocky Linux)",
            "Apache/2.4.57 (Rocky Linux)",
            "nginx/1.20.1",
        ],
        (_, Distro::Centos7) => &["Apache/2.4.6 (CentOS)", "nginx/1.20.1"],
        (_, Distro::Alpine) => &["Apache/2.4.58 (Unix)", "nginx"],
        (_, Distro::Fedora) => &["Apache/2.4.58 (Fedora Linux)", "nginx/1.24.0"],
        (_, Distro::Kali) => &["Apache/2.4.58 (Debian)", "Apache/2.4.59 (Debian)"],
        (_, Distro::Arch) => &["Apache/2.4.59 (Unix)", "nginx/1.26.0"],
    };
    let drawn = identity.number("http.server", 0..=options.len() as u64 - 1);
    options[usize::try_from(drawn).unwrap_or(0)]
}

/// The page `server` shows for a status without a page.
pub(super) fn status_page(server: &str, code: u16, reason: &str) -> String {
    if server.starts_with("nginx") {
        return format!(
            "<html>\r\n<head><title>{code} {reason}</title></head>\r\n<body>\r\n<center><h1>{code} {reason}</h1></center>\r\n\
             <hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
        );
    }
    let sentence = match code {
        200 => "It works!",
        401 => "This server could not verify that you are authorized to access the document requested.",
        403 => "You don't have permission to access this resource.",
        404 => "The requested URL was not found on this server.",
        _ => "The server could not complete your request.",
    };
    let signature = if server.starts_with("Apache") {
        format!("<hr>\n<address>{server}</address>\n")
    } else {
        String::new()
    };
    format!(
        "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>{code} {reason}</title>\n\
         </head><body>\n<h1>{reason}</h1>\n<p>{sentence}</p>\n{signature}</body></html>\n"
    )
}
