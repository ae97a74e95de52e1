use super::*;
use crate::fleet::fixture::CATALOGUE;

fn extended(text: &str) -> Result<Catalogue, Vec<CatalogueError>> {
    Catalogue::load(&[("mine.toml".to_owned(), text.to_owned())])
}

fn fault(text: &str) -> String {
    let errors = extended(text).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].to_string()
}

#[test]
fn the_built_in_catalogue_is_whole() {
    assert_eq!(
        CATALOGUE.services().filter(|service| !service.singleton).count(),
        28
    );
    assert_eq!(CATALOGUE.archetypes().count(), 15);
    let distros: Vec<&str> = CATALOGUE
        .distros()
        .iter()
        .map(|distro| distro.slug.as_str())
        .collect();
    assert_eq!(
        distros,
        [
            "debian", "ubuntu22", "ubuntu20", "rocky9", "centos7", "alpine", "fedora", "kali", "arch"
        ]
    );
    assert_eq!(CATALOGUE.os_families().count(), 6);
    assert_eq!(CATALOGUE.words().len(), 25);
    assert!(CATALOGUE.os_family(&OsFamilySlug::linux()).is_some());
    let decoys: Vec<&str> = CATALOGUE
        .deployable()
        .map(|service| service.slug.as_str())
        .collect();
    assert_eq!(
        decoys,
        [
            "ftp",
            "http",
            "https",
            "imap",
            "mqtt",
            "mysql",
            "pop3",
            "postgres",
            "redis",
            "smtp",
            "smtp_relay",
            "snmp",
            "ssh",
            "telnet",
            "vnc"
        ]
    );
}

/// Ports were advertised on which nothing listens: 443 of http, 587 of smtp, 993 of imap and more.
#[test]
fn only_ports_that_something_listens_on_are_listed() {
    for service in CATALOGUE.deployable() {
        assert_eq!(service.ports.len(), 1, "{}: a decoy opens one port", service.slug);
    }
    let ports = |slug: &str| format!("{:?}", CATALOGUE.service(&slug.parse().unwrap()).unwrap().ports);
    assert_eq!(ports("snmp"), "[161/udp]");
    assert_eq!(
        (ports("smtp"), ports("http"), ports("imap")),
        ("[25/tcp]".into(), "[80/tcp]".into(), "[143/tcp]".into())
    );
    assert_eq!(ports("dns"), "[53/tcp, 53/udp]");
}

/// `industrial-control` paired two services on 161/udp.
#[test]
fn no_archetype_pairs_services_on_one_port() {
    for archetype in CATALOGUE.archetypes() {
        for (index, one) in archetype.services.iter().enumerate() {
            for other in &archetype.services[..index] {
                assert_eq!(CATALOGUE.clash(one, other), None, "{}", archetype.slug);
            }
        }
    }
    assert!(
        CATALOGUE
            .clash(&"conpot".parse().unwrap(), &"snmp".parse().unwrap())
            .is_some()
    );
    assert!(
        CATALOGUE
            .clash(&"smtp".parse().unwrap(), &"smtp_relay".parse().unwrap())
            .is_some()
    );
}

#[test]
fn a_file_adds_services_archetypes_distros_families_vendors_and_words() {
    let image = format!("registry.example.test/nfs@sha256:{}", "0".repeat(64));
    let catalogue = extended(&format!(
        r#"
        words = ["zebra"]
        [[service]]
        slug = "nfs"
        name = "NFS"
        ports = ["2049/tcp", "2049/udp"]
        image = "{image}"
        command = ["serve"]
        [[service.field]]
        key = "export"
        label = "Export"
        type = "string"
        secret = true
        [[vendor]]
        slug = "acme"
        name = "Acme"
        ouis = ["00:16:3E"]
        [[distro]]
        slug = "mint"
        name = "Mint"
        like = "ubuntu22"
        hostname_style = "generic"
        [[os_family]]
        slug = "solaris"
        name = "Solaris"
        like = "bsd"
        vendors = ["acme"]
        sysctls = {{ "net.ipv4.ip_default_ttl" = "255" }}
        [[archetype]]
        slug = "nas"
        name = "NAS"
        services = ["nfs", "ssh"]
        distros = ["mint"]
        os_family = "solaris"
        "#
    ))
    .unwrap();
    assert!(catalogue.is_deployable(&"nfs".parse().unwrap()));
    assert_eq!(
        catalogue
            .archetype(&"nas".parse().unwrap())
            .unwrap()
            .services
            .len(),
        2
    );
    assert_eq!(
        catalogue.distro(&"mint".parse().unwrap()).unwrap().like.as_str(),
        "ubuntu22"
    );
    assert_eq!(catalogue.words().len(), 26);
    assert_eq!(catalogue.vendor("acme").unwrap().ouis, [[0x00, 0x16, 0x3e]]);
}

#[test]
fn a_built_in_entry_is_replaced_only_on_purpose() {
    let entry = "[[distro]]\nslug = \"debian\"\nname = \"Debian 13\"\nhostname_style = \"minimal\"\n";
    assert_eq!(
        fault(entry),
        "mine.toml: distro debian: is already in distros.toml; add `replace = true` to put this one in its place"
    );
    let catalogue = extended(&format!("{entry}replace = true\n")).unwrap();
    assert_eq!(catalogue.distros()[0].name, "Debian 13");
    let unknown = entry
        .replace("debian", "mint")
        .replace("name =", "like = \"debian\"\nname =");
    assert!(fault(&format!("{unknown}replace = true\n")).contains("replaces nothing"));
}

#[test]
fn every_fault_names_its_file_and_entry() {
    let service = |rest: &str| format!("[[service]]\nslug = \"x\"\nname = \"X\"\n{rest}");
    for (text, expected) in [
        ("[[service]\n".to_owned(), "mine.toml: line 1: "),
        ("\nnonsense = 1\n".to_owned(), "mine.toml: line 2: unknown field `nonsense`"),
        (service("ports = [\"80/sctp\"]"), "mine.toml: line 4: "),
        (service("decoy = true"), "mine.toml: service x: the decoy program has no such service"),
        (service("build = \"../etc/x.tar\""), "mine.toml: service x: `build` names a tar archive"),
        (
            service(&format!("build = \"x.tar\"\nimage = \"x@sha256:{}\"", "0".repeat(64))),
            "mine.toml: service x: has more than one of",
        ),
        (service("image = \"nginx:latest\""), "mine.toml: service x: `image` must be pinned"),
        ("[[service]]\nslug = \"base\"\nname = \"B\"".to_owned(), "mine.toml: service base: is the name of every"),
        (service("[[service.field]]\nkey = \"A\"\nlabel = \"a\"\ntype = \"int\""), "mine.toml: service x: field A: a key"),
        (service("[[service.field]]\nkey = \"a\"\nlabel = \"a\"\ntype = \"enum\""), "mine.toml: service x: field a: `allowed`"),
        (
            service("[[service.field]]\nkey = \"a\"\nlabel = \"a\"\ntype = \"int\"\ndefault = \"many\""),
            "mine.toml: service x: field a: its default must be a whole number",
        ),
        ("words = [\"Two Words\"]".to_owned(), "mine.toml: words: "),
        ("[[vendor]]\nslug = \"v\"\nname = \"V\"\nouis = [\"01:00:5e\"]".to_owned(), "mine.toml: vendor v: "),
        ("[[vendor]]\nslug = \"v\"\nname = \"V\"\nouis = [\"02:42:ac\"]".to_owned(), "mine.toml: vendor v: `ouis` must"),
        ("[[vendor]]\nslug = \"v\"\nname = \"V\"\nouis = [\"00:14:22\", \"0:014:22\"]".to_owned(), "mine.toml: vendor v: "),
        ("[[vendor]]\nslug = \"v\"\nname = \"V\"\nouis = [\"00:14:22:01\"]".to_owned(), "mine.toml: vendor v: "),
        ("[[vendor]]\nslug = \"v\"\nname = \"V\"\nouis = []".to_owned(), "mine.toml: vendor v: "),
        (
            "[[distro]]\nslug = \"mint\"\nname = \"Mint\"\nhostname_style = \"generic\"".to_owned(),
            "mine.toml: distro mint: `like` must name",
        ),
        (
            "[[os_family]]\nslug = \"o\"\nname = \"O\"\nlike = \"linux\"\nvendors = [\"dell\"]\nsysctls = { \"kernel.panic\" = \"1\" }".to_owned(),
            "mine.toml: os_family o: kernel.panic is not a setting of a network namespace",
        ),
        (
            "[[archetype]]\nslug = \"a\"\nname = \"A\"\nservices = [\"smtp\", \"smtp_relay\"]\ndistros = [\"debian\"]\nos_family = \"linux\"".to_owned(),
            "mine.toml: archetype a: smtp and smtp_relay both listen on 25/tcp",
        ),
    ] {
        let fault = fault(&text);
        assert!(fault.starts_with(expected), "{fault}");
    }
    let all = extended(
        "[[archetype]]\nslug = \"a\"\nname = \"A\"\nservices = [\"gopher\", \"sniffer\"]\ndistros = [\"beos\"]\nos_family = \"cp_m\"\nvendors = [\"nobody\"]",
    );
    assert_eq!(all.unwrap_err().len(), 5);
}

#[test]
fn a_file_over_the_cap_is_not_read() {
    assert!(fault(&"#".repeat(1024 * 1024 + 1)).contains("at most 1048576 are read"));
}

#[test]
fn settings_from_json_keep_their_types_and_null_leaves_them_unset() {
    let http = CATALOGUE.service(&"http".parse().unwrap()).unwrap();
    let values = serde_json::json!({
        "response_code": 404, "http_versions": ["http/2"], "server_header": null, "custom_body": "", "fake_app": "none",
    });
    let pairs = values
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.as_str(), value));
    let persona = http.persona(pairs).unwrap();
    assert_eq!(
        serde_json::to_value(&persona).unwrap(),
        serde_json::json!({ "response_code": 404, "http_versions": ["http/2"], "fake_app": "none" })
    );
    for bad in [
        serde_json::json!({ "response_code": 1.5 }),
        serde_json::json!({ "http_versions": [] }),
        serde_json::json!({ "http_versions": [1] }),
        serde_json::json!({ "server_header": {} }),
        serde_json::json!({ "nothing": null }),
    ] {
        let pairs = bad
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.as_str(), value));
        assert!(http.persona(pairs).is_err(), "{bad}");
    }
}

#[test]
fn an_image_is_pinned_by_a_digest_and_nothing_less() {
    let digest = format!("sha256:{}", "0".repeat(64));
    assert!(is_pinned(&format!("registry.example.test:5000/a/b:1@{digest}")));
    for loose in [
        "a",
        "a:latest",
        "a@sha256:00",
        &format!("@{digest}"),
        &format!("a b@{digest}"),
    ] {
        assert!(!is_pinned(loose), "{loose}");
    }
}
