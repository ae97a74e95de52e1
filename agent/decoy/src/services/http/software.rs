//! Which web server runs on which machine, and its error pages.

use crate::host::{Distro, Host, OsFamily};
use crate::identity::Identity;

/// The `Server` header: a package version the distribution shipped.
pub(super) fn server_header(host: &Host, identity: &Identity) -> &'static str {
    let options: &[&'static str] = match (host.family, host.distro) {
        (OsFamily::Windows | OsFamily::WindowsServer, _) => &["Microsoft-IIS/10.0"],
        (OsFamily::Cisco, _) => &["cisco-IOS"],
        (OsFamily::Embedded, _) => &["lighttpd/1.4.35", "Boa/0.94.14rc21", "mini_httpd/1.30 26Oct2018"],
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

/// A header that every answer has, or the place of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Date,
    Server,
    /// Content-Type.
    Kind,
    /// Content-Length.
    Length,
    /// What the page and the persona add.
    Others,
}

/// The order in which a server writes its headers, which scanners know it by as well as by its name.
pub(super) fn order(server: &str) -> [Slot; 5] {
    use Slot::{Date, Kind, Length, Others, Server};
    let is = |name: &str| server.starts_with(name);
    match () {
        () if is("nginx") => [Server, Date, Kind, Length, Others],
        () if is("Microsoft-IIS") => [Kind, Server, Others, Date, Length],
        () if is("GoAhead") || is("mini_httpd") => [Server, Date, Others, Kind, Length],
        () if is("lighttpd") => [Kind, Others, Length, Date, Server],
        () if is("Jetty") => [Date, Others, Kind, Length, Server],
        // Tomcat, which names no server.
        () if server.is_empty() => [Others, Kind, Length, Date, Server],
        () => [Date, Server, Others, Length, Kind],
    }
}

/// The media type of a server's own pages.
pub(super) fn page_kind(server: &str) -> &'static str {
    if server.starts_with("Apache") {
        "text/html; charset=iso-8859-1"
    } else if server.is_empty() {
        "text/html;charset=utf-8"
    } else {
        "text/html"
    }
}

/// The status and the `Server` header of the answer to what is no request. `status` is 400, 414 or 431.
pub(super) fn malformed(server: &str, status: u16) -> (u16, &'static str, &str) {
    match status {
        414 => (414, "Request-URI Too Large", server),
        // Kernel-mode HTTP answers before IIS sees anything.
        _ if server.starts_with("Microsoft-IIS") => (400, "Bad Request", "Microsoft-HTTPAPI/2.0"),
        _ => (400, "Bad Request", server),
    }
}

/// The page `server` shows for a status without a page. `place` is the host and port of the request.
pub(super) fn status_page(server: &str, code: u16, reason: &str, place: (&str, u16)) -> String {
    if server.starts_with("nginx") {
        return format!(
            "<html>\r\n<head><title>{code} {reason}</title></head>\r\n<body>\r\n<center><h1>{code} {reason}</h1></center>\r\n\
             <hr><center>{server}</center>\r\n</body>\r\n</html>\r\n"
        );
    }
    if server.starts_with("Microsoft-HTTPAPI") {
        return format!(
            "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\"\"http://www.w3.org/TR/html4/strict.dtd\">\r\n\
             <HTML><HEAD><TITLE>{reason}</TITLE>\r\n\
             <META HTTP-EQUIV=\"Content-Type\" Content=\"text/html; charset=us-ascii\"></HEAD>\r\n\
             <BODY><h2>{reason} - Invalid Verb</h2>\r\n<hr><p>HTTP Error {code}. The request verb is invalid.</p>\r\n\
             </BODY></HTML>\r\n"
        );
    }
    if server.starts_with("Microsoft-IIS") {
        let what = match code {
            401 => "Unauthorized: Access is denied due to invalid credentials.",
            403 => "Forbidden: Access is denied.",
            404 => "File or directory not found.",
            405 => "HTTP verb used to access this page is not allowed.",
            _ => reason,
        };
        return format!(
            "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Strict//EN\" \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd\">\r\n\
             <html xmlns=\"http://www.w3.org/1999/xhtml\">\r\n<head>\r\n\
             <meta http-equiv=\"Content-Type\" content=\"text/html; charset=iso-8859-1\"/>\r\n\
             <title>{code} - {what}</title>\r\n</head>\r\n<body>\r\n<div id=\"header\"><h1>Server Error</h1></div>\r\n\
             <div id=\"content\">\r\n<h2>{code} - {what}</h2>\r\n</div>\r\n</body>\r\n</html>\r\n"
        );
    }
    let sentence = match code {
        200 => "It works!",
        400 => "Your browser sent a request that this server could not understand.<br />",
        401 => "This server could not verify that you are authorized to access the document requested.",
        403 => "You don't have permission to access this resource.",
        404 => "The requested URL was not found on this server.",
        405 => "The requested method is not allowed for this URL.",
        _ => "The server could not complete your request.",
    };
    let signature = if server.starts_with("Apache") {
        let (host, port) = place;
        format!("<hr>\n<address>{server} Server at {host} Port {port}</address>\n")
    } else {
        String::new()
    };
    format!(
        "<!DOCTYPE HTML PUBLIC \"-//IETF//DTD HTML 2.0//EN\">\n<html><head>\n<title>{code} {reason}</title>\n\
         </head><body>\n<h1>{reason}</h1>\n<p>{sentence}</p>\n{signature}</body></html>\n"
    )
}
