//! The applications a site can pretend to run: the pages that scanners ask for.

use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::identity::Identity;

/// The persona's `fake_app`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum App {
    #[default]
    None,
    Wordpress,
    Phpmyadmin,
    Tomcat,
    Jenkins,
}

/// A header's lower-case name and value.
pub(super) type Header = (&'static str, String);

/// One page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<Header>,
    pub(super) body: String,
}

impl Page {
    fn html(title: &str, body: &str) -> Self {
        let body = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"UTF-8\" />\n<title>{title}</title>\n\
             </head>\n<body>\n{body}\n</body>\n</html>\n"
        );
        Self {
            status: StatusCode::OK,
            headers: Vec::new(),
            body,
        }
    }

    fn redirect(to: &str) -> Self {
        Self {
            status: StatusCode::FOUND,
            headers: vec![("location", to.to_owned())],
            body: String::new(),
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl App {
    /// The `Server` header of applications that bring their own server; empty for none.
    pub(super) fn server(self) -> Option<&'static str> {
        match self {
            Self::Tomcat => Some(""),
            Self::Jenkins => Some("Jetty(10.0.20)"),
            Self::None | Self::Wordpress | Self::Phpmyadmin => None,
        }
    }

    /// The page at `path`; `None` when the application has none there. `tried` says that the request
    /// carried credentials, which are always wrong.
    pub(super) fn page(self, identity: &Identity, method: &Method, path: &str, tried: bool) -> Option<Page> {
        match self {
            Self::None => None,
            Self::Wordpress => wordpress(identity, method, path, tried),
            Self::Phpmyadmin => phpmyadmin(identity, path, tried),
            Self::Tomcat => tomcat(identity, path),
            Self::Jenkins => jenkins(identity, path),
        }
    }
}

fn form(action: &str, user: &str, password: &str, notice: &str) -> String {
    format!(
        "{notice}<form name=\"loginform\" id=\"loginform\" action=\"{action}\" method=\"post\">\n\
         <p><label for=\"{user}\">Username</label> <input type=\"text\" name=\"{user}\" id=\"{user}\" /></p>\n\
         <p><label for=\"{password}\">Password</label> <input type=\"password\" name=\"{password}\" id=\"{password}\" /></p>\n\
         <p><input type=\"submit\" value=\"Log In\" /></p>\n</form>"
    )
}

fn wordpress(identity: &Identity, method: &Method, path: &str, tried: bool) -> Option<Page> {
    let version = identity.choose("http.wordpress", &["6.2.2", "6.3.1", "6.4.3", "6.5.2"]);
    let title = identity.choose(
        "http.wordpress.title",
        &["News", "Intranet", "Our blog", "Company site"],
    );
    Some(match path {
        "/" | "/index.php" => Page::html(
            title,
            &format!(
                "<meta name=\"generator\" content=\"WordPress {version}\" />\n\
                 <link rel=\"stylesheet\" href=\"/wp-includes/css/dist/block-library/style.min.css?ver={version}\" />\n\
                 <h1>{title}</h1>\n<h2>Hello world!</h2>\n<p>Welcome to WordPress. This is your first post.</p>\n\
                 <a href=\"/wp-login.php\">Log in</a>"
            ),
        )
        .with("link", "</wp-json/>; rel=\"https://api.w.org/\""),
        "/wp-login.php" => {
            let notice = if tried {
                "<div id=\"login_error\"><strong>Error:</strong> The password you entered is incorrect.</div>\n"
            } else {
                ""
            };
            let body = form("/wp-login.php", "log", "pwd", notice);
            Page::html(&format!("Log In &lsaquo; {title} &#8212; WordPress"), &body)
                .with("set-cookie", "wordpress_test_cookie=WP%20Cookie%20check; path=/")
        }
        "/wp-admin" | "/wp-admin/" => Page::redirect("/wp-login.php?redirect_to=%2Fwp-admin%2F&reauth=1"),
        "/xmlrpc.php" if method == Method::POST => Page::html("", "").with("x-pingback", "/xmlrpc.php"),
        "/xmlrpc.php" => {
            let mut page = Page::html("", "").status(StatusCode::METHOD_NOT_ALLOWED).with("allow", "POST");
            "XML-RPC server accepts POST requests only.".clone_into(&mut page.body);
            page
        }
        "/wp-json" | "/wp-json/" => {
            let mut page = Page::html("", "");
            page.body = format!("{{\"name\":\"{title}\",\"namespaces\":[\"oembed/1.0\",\"wp/v2\"],\"authentication\":[]}}");
            page
        }
        "/readme.html" => Page::html("WordPress &#8250; ReadMe", &format!("<h1>WordPress</h1><p>Version {version}</p>")),
        _ => return None,
    })
}

fn phpmyadmin(identity: &Identity, path: &str, tried: bool) -> Option<Page> {
    let version = identity.choose("http.phpmyadmin", &["4.9.7", "5.1.1", "5.2.0", "5.2.1"]);
    let path = path
        .strip_prefix("/phpmyadmin")
        .or(path.strip_prefix("/phpMyAdmin"))
        .unwrap_or(path);
    matches!(path, "" | "/" | "/index.php").then(|| {
        let notice = if tried {
            "<div class=\"alert alert-danger\">Cannot log in to the MySQL server</div>\n"
        } else {
            ""
        };
        let body = format!(
            "<h1>Welcome to <bdo dir=\"ltr\" lang=\"en\">phpMyAdmin</bdo></h1>\n{}\n<!-- {version} -->",
            form("index.php?route=/", "pma_username", "pma_password", notice)
        );
        Page::html("phpMyAdmin", &body).with(
            "set-cookie",
            format!(
                "phpMyAdmin={}; path=/; HttpOnly",
                identity.hex::<16>("http.phpmyadmin.session")
            ),
        )
    })
}

fn tomcat(identity: &Identity, path: &str) -> Option<Page> {
    let version = identity.choose("http.tomcat", &["9.0.65", "9.0.83", "10.1.16", "8.5.94"]);
    Some(match path {
        "/" | "/index.jsp" => Page::html(
            &format!("Apache Tomcat/{version}"),
            &format!(
                "<h1>Apache Tomcat/{version}</h1>\n<h2>If you're seeing this, you've successfully installed Tomcat. \
                 Congratulations!</h2>\n<a href=\"/manager/status\">Server Status</a> <a href=\"/manager/html\">Manager App</a> \
                 <a href=\"/host-manager/html\">Host Manager</a>"
            ),
        ),
        _ if path.starts_with("/manager") || path.starts_with("/host-manager") => {
            let realm = if path.starts_with("/manager") {
                "Manager"
            } else {
                "Host Manager"
            };
            Page::html(
                "401 Unauthorized",
                "<h1>401 Unauthorized</h1>\n<p>You are not authorized to view this page.</p>",
            )
            .status(StatusCode::UNAUTHORIZED)
            .with(
                "www-authenticate",
                format!("Basic realm=\"Tomcat {realm} Application\""),
            )
        }
        _ => return None,
    })
}

fn jenkins(identity: &Identity, path: &str) -> Option<Page> {
    let version = identity.choose("http.jenkins", &["2.401.3", "2.414.3", "2.426.1", "2.440.2"]);
    let page = match path {
        "/" => Page::html(
            "",
            "<meta http-equiv='refresh' content='1;url=/login?from=%2F'/>\n<p>Authentication required</p>",
        )
        .status(StatusCode::FORBIDDEN),
        "/login" => Page::html(
            "Sign in [Jenkins]",
            &form("j_spring_security_check", "j_username", "j_password", ""),
        ),
        "/loginError" => Page::html(
            "Sign in [Jenkins]",
            &form(
                "j_spring_security_check",
                "j_username",
                "j_password",
                "<p>Invalid username or password</p>\n",
            ),
        )
        .status(StatusCode::UNAUTHORIZED),
        "/j_spring_security_check" | "/j_acegi_security_check" => Page::redirect("/loginError"),
        "/script" | "/manage" | "/asynchPeople/" | "/api/json" => {
            Page::html("", "<p>Authentication required</p>").status(StatusCode::FORBIDDEN)
        }
        _ => return None,
    };
    Some(
        page.with("x-jenkins", version)
            .with("x-hudson", "1.395")
            .with("x-jenkins-session", identity.hex::<4>("http.jenkins.session")),
    )
}
