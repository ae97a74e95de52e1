use super::*;
use crate::fleet::fixture::{master, parse, slugs};

/// The only fault of a text.
fn fault(text: &str) -> IniError {
    let mut errors = parse(text).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

fn classes(text: &str) -> Vec<IniClass> {
    parse(text).unwrap_err().iter().map(|error| error.class).collect()
}

fn names(document: &Document) -> Vec<&str> {
    document.deckies.iter().map(|decky| decky.name.as_str()).collect()
}

#[test]
fn every_refused_text_has_its_class_status_and_line() {
    let too_long = format!("[a]\n{}", "#".repeat(524_289));
    let rows: &[(&str, IniClass, u16, usize)] = &[
        ("", IniClass::Empty, 409, 1),
        ("   \n\t", IniClass::Empty, 409, 1),
        (&too_long, IniClass::TooLarge, 422, 2),
        ("services=ssh", IniClass::Syntax, 409, 1),
        ("[a\nservices=ssh", IniClass::Syntax, 409, 1),
        ("[]\nservices=ssh", IniClass::Syntax, 409, 1),
        ("\u{feff}[a]\nservices=ssh", IniClass::Syntax, 409, 1),
        ("[DEFAULT]\nservices=ssh", IniClass::NoSections, 409, 1),
        ("# nothing\n; at all", IniClass::NoSections, 409, 1),
        ("[a]\namount=0", IniClass::Amount, 409, 2),
        ("[a]\namount=", IniClass::Amount, 409, 2),
        ("[a]\namount=two", IniClass::Amount, 409, 2),
        ("[a]\namount=-1", IniClass::Amount, 409, 2),
        ("[a]\namount=101", IniClass::AmountLimit, 409, 2),
        (
            "[a]\namount=99999999999999999999999",
            IniClass::AmountLimit,
            409,
            2,
        ),
        ("[a]\nip=10.0.0.9\namount=2", IniClass::IpAmount, 409, 2),
        ("[a]\nmutate_interval=5m", IniClass::IntervalType, 409, 2),
        ("[a]\nmutate-interval=0", IniClass::IntervalRange, 409, 2),
        ("[a]\nmutate_interval=-5", IniClass::IntervalRange, 409, 2),
        (
            "[a]\nmutate_interval=99999999999",
            IniClass::IntervalRange,
            409,
            2,
        ),
        ("[my host]\nservices=ssh", IniClass::Name, 409, 1),
        ("[a]\narchetype=toaster", IniClass::Archetype, 409, 2),
        ("[a]\nservices=ssh,", IniClass::Service, 409, 2),
        ("[a]\nservices=SSH", IniClass::Service, 409, 2),
        ("[a]\nservices=gopher", IniClass::Service, 409, 2),
        ("[a]\nservices=sniffer", IniClass::Service, 409, 2),
        ("[a]\nip=10.0.0.9 # web\nservices=ssh", IniClass::Address, 409, 2),
        ("[a]\nip=10.0.0.256", IniClass::Address, 409, 2),
        ("[general]\nnet=10.0.0.0\n[a]", IniClass::Address, 409, 2),
        ("[general]\nnet=10.0.0.0/33\n[a]", IniClass::Address, 409, 2),
        ("[general]\nnet=10.0.0.0/31\n[a]", IniClass::Address, 409, 2),
        ("[general]\nnet=224.0.0.0/24\n[a]", IniClass::Address, 409, 2),
        ("[general]\ngw=router\n[a]", IniClass::Address, 409, 2),
        (
            "[general]\nnet=10.0.0.0/24\ngw=10.0.1.1\n[a]",
            IniClass::Address,
            409,
            3,
        ),
        (
            "[general]\nnet=10.0.0.0/24\ngw=10.0.0.255\n[a]",
            IniClass::Address,
            409,
            3,
        ),
        (
            "[general]\ninterface=a name that is long\n[a]",
            IniClass::Network,
            409,
            2,
        ),
        ("[a]\nservices=ssh,ssh", IniClass::Service, 409, 2),
        ("[a]\nnmap_os=templeos", IniClass::OsFamily, 409, 2),
        ("[a]\nowner=finance", IniClass::UnknownKey, 409, 2),
        ("[general]\nipvlan=true\n[a]", IniClass::UnknownKey, 409, 2),
        ("[DEFAULT]\ncolour=red\n[a]", IniClass::UnknownKey, 409, 2),
        ("[a]\nservices=ssh\nservices=http", IniClass::Duplicate, 409, 3),
        ("[a]\nnmap_os=linux\nnmap-os=bsd", IniClass::Duplicate, 409, 3),
        ("[a]\n[b]\n[a]", IniClass::Duplicate, 409, 3),
        ("[a]\n = 5", IniClass::Syntax, 409, 2),
        (
            "[a]\nservices=ssh\n[a.ssh]\npasswrd=x",
            IniClass::UnknownKey,
            409,
            4,
        ),
        (
            "[a]\nservices=http\n[a.http]\nresponse_code=ok",
            IniClass::Persona,
            409,
            4,
        ),
        ("[a]\negress=tcp/web:80", IniClass::Egress, 409, 2),
        (
            "[a]\negress=tcp/192.0.2.1:80,\n  udp/192.0.2.1",
            IniClass::Egress,
            409,
            2,
        ),
        ("[custom-x]\nports=80\n[a]", IniClass::Custom, 409, 1),
        ("[custom-ssh]\nbinary=x\n[a]", IniClass::Custom, 409, 1),
        ("[custom-base]\nbinary=x\n[a]", IniClass::Custom, 409, 1),
        ("[custom-my-app]\nbinary=x\n[a]", IniClass::Custom, 409, 1),
        (
            "[custom-x]\nbinary=x\nports=80,web\n[a]",
            IniClass::Custom,
            409,
            3,
        ),
        ("[custom-x]\nbinary=x y\n[a]", IniClass::Custom, 409, 2),
    ];
    for (text, class, status, line) in rows {
        let shown: String = text.chars().take(60).collect();
        let error = fault(text);
        assert_eq!(
            (error.class, error.class.status(), error.line),
            (*class, *status, Some(*line)),
            "{shown:?}"
        );
        assert_eq!(super::status(&[error]), *status);
    }
}

#[test]
fn the_size_is_checked_before_emptiness_and_counts_characters() {
    assert_eq!(fault(&" ".repeat(MAX_CHARACTERS + 1)).class, IniClass::TooLarge);
    assert_eq!(fault(&" ".repeat(MAX_CHARACTERS)).class, IniClass::Empty);
    let full = format!("[a]\n#{}", "ü".repeat(MAX_CHARACTERS - 5));
    assert_eq!(full.chars().count(), MAX_CHARACTERS);
    assert!(parse(&full).is_ok());
}

#[test]
fn a_text_with_explicit_addresses_comments_and_both_delimiters_reads() {
    let text = "; lab segment\n[general]\nnet = 10.20.30.0/24\ngw = 10.20.30.1\ninterface = eth1\n\n\
                [front]\nip: 10.20.30.40\nservices = ssh, http\n\n[back]\nservices = postgres\n";
    let document = parse(text).unwrap();
    assert_eq!(names(&document), ["front", "back"]);
    let front = &document.deckies[0];
    assert_eq!(front.ip.as_ref().unwrap().value.to_string(), "10.20.30.40");
    assert_eq!(front.ip.as_ref().unwrap().line, 8);
    assert_eq!(slugs(&front.services.as_ref().unwrap().value), ["ssh", "http"]);
    assert_eq!(
        document.general.interface.as_ref().unwrap().value.as_str(),
        "eth1"
    );
}

#[test]
fn line_endings_header_tails_key_case_and_blanks_do_not_matter() {
    let plain = parse("[a]\nservices = ssh\nip = 10.0.0.5\n").unwrap();
    for text in [
        "[a]\r\nservices = ssh\r\nip = 10.0.0.5\r\n",
        "[a]\rservices = ssh\rip = 10.0.0.5\r",
        "[a] ; the first\nSERVICES=ssh\nIp:10.0.0.5",
        "  [a]\nservices   =   ssh  \n# note\nip =10.0.0.5",
    ] {
        let read = parse(text).unwrap();
        assert_eq!(
            read.deckies[0].services.as_ref().unwrap().value,
            plain.deckies[0].services.as_ref().unwrap().value
        );
        assert_eq!(
            read.deckies[0].ip.as_ref().unwrap().value,
            plain.deckies[0].ip.as_ref().unwrap().value
        );
    }
}

#[test]
fn an_empty_value_counts_as_absent_but_for_the_amount() {
    let text = "[DEFAULT]\nservices=ssh\n[a]\nip=\nservices=\narchetype=\nnmap_os=\nmutate_interval=\n";
    let document = parse(text).unwrap();
    let decky = &document.deckies[0];
    assert!(decky.ip.is_none() && decky.services.is_none() && decky.archetype.is_none());
    assert!(decky.os_family.is_none() && decky.interval.is_none());
}

#[test]
fn a_deeper_line_continues_the_value_and_comments_in_between_are_left_out() {
    let text = "[a]\nservices = ssh,\n    # and\n    ftp\nip = 10.0.0.7\n\
                [c]\nservices=http\n[c.http]\ncustom_body = <a>\n  [b]\n\n  = c\n";
    let document = parse(text).unwrap();
    assert_eq!(
        slugs(&document.deckies[0].services.as_ref().unwrap().value),
        ["ssh", "ftp"]
    );
    let body = &document.deckies[1].personas[&"http".parse().unwrap()].value.0["custom_body"];
    assert_eq!(body, "<a>\n[b]\n\n= c");
}

#[test]
fn default_is_inherited_by_deckies_and_a_section_overrides_it() {
    let text = "[DEFAULT]\nmutate-interval = 60\n[a]\nservices = ssh,\n    ftp\n[b]\nmutate-interval = 15\n\
                services = redis\n[b.redis]\nversion = 7.2.4\n";
    let document = parse(text).unwrap();
    let intervals: Vec<u32> = document
        .deckies
        .iter()
        .map(|decky| decky.interval.unwrap().get())
        .collect();
    assert_eq!(intervals, [60, 15]);
    // The two spellings are one key: the section's wins over the inherited one.
    let mixed = parse("[DEFAULT]\nmutate_interval=60\n[a]\nmutate-interval=15").unwrap();
    assert_eq!(mixed.deckies[0].interval.unwrap().get(), 15);
}

#[test]
fn what_a_decky_may_call_is_a_list_that_a_section_can_take_back() {
    let text = "[DEFAULT]\negress = udp/192.0.2.1:53, tcp/203.0.113.0/24:443-445\n[a]\n[b]\negress =\n\
                [c]\negress = icmp/192.0.2.1,\n    tcp/[2001:db8::1]:25\n";
    let document = parse(text).unwrap();
    let told: Vec<Vec<String>> = document
        .deckies
        .iter()
        .map(|decky| decky.egress.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(told[0], ["tcp/203.0.113.0/24:443-445", "udp/192.0.2.1:53"]);
    assert!(told[1].is_empty());
    assert_eq!(told[2], ["tcp/[2001:db8::1]:25", "icmp/192.0.2.1"]);

    let error = fault("[web]\nservices = ssh\negress = tcp/192.0.2.1:80, tcp/web.example:80");
    let said = error.to_string();
    assert!(
        said.starts_with("line 3: [web] egress: `tcp/web.example:80` must be a destination such as"),
        "{said}"
    );
    assert!(!said.contains('\n'));
    let many: Vec<String> = (1..=65).map(|port| format!("tcp/192.0.2.1:{port}")).collect();
    assert_eq!(
        fault(&format!("[a]\negress={}", many.join(","))).class,
        IniClass::Egress
    );
}

/// Keys of [DEFAULT] leaked into the settings of every service, where they went to the containers.
#[test]
fn default_does_not_leak_into_service_settings() {
    let text = "[DEFAULT]\nmutate_interval=60\nnmap_os=linux\n[b]\nservices=redis\n[b.redis]\nversion=7.2.4";
    let document = parse(text).unwrap();
    let persona = &document.deckies[0].personas[&"redis".parse().unwrap()].value;
    assert_eq!(persona.0.keys().collect::<Vec<_>>(), ["version"]);
}

#[test]
fn a_fault_of_default_is_reported_once_and_at_its_own_line() {
    let error = fault("[DEFAULT]\nnmap_os=templeos\n[a]\n[b]\n[c]");
    assert_eq!((error.line, error.section.as_deref()), (Some(2), Some("DEFAULT")));
}

#[test]
fn amounts_make_numbered_deckies() {
    let document = parse("[web]\namount=100\n[solo]\namount=1\nip=10.0.0.9").unwrap();
    let names = names(&document);
    assert_eq!(
        (names[0], names[8], names[98], names[99], names[100]),
        ("web-01", "web-09", "web-99", "web-100", "solo")
    );
}

#[test]
fn settings_go_to_the_decky_or_to_the_members_of_the_amount_and_the_last_section_wins() {
    let text = "[cam]\narchetype = iot-device\namount = 3\n[cam.telnet]\npassword = camera1\n\
                [cam-02.telnet]\npassword = other\nuser = svc\n";
    let document = parse(text).unwrap();
    let of = |index: usize| {
        &document.deckies[index].personas[&"telnet".parse().unwrap()]
            .value
            .0
    };
    assert_eq!(of(0)["password"], "camera1");
    assert_eq!(
        (&of(1)["password"], &of(1)["user"]),
        (&"other".into(), &"svc".into())
    );
    assert_eq!(of(2).len(), 1);
}

/// `[web.ssh]` also changed `web-db`, a decky of its own whose name merely starts the same.
#[test]
fn settings_of_a_group_leave_other_deckies_with_the_same_prefix_alone() {
    let text = "[web]\namount=2\nservices=ssh\n[web-db]\nservices=ssh\n[web.ssh]\nuser=x";
    let document = parse(text).unwrap();
    let touched: Vec<bool> = document
        .deckies
        .iter()
        .map(|decky| !decky.personas.is_empty())
        .collect();
    assert_eq!(touched, [true, true, false]);
    let single = parse("[web]\nservices=ssh\n[web-db]\nservices=ssh\n[web.ssh]\nuser=x").unwrap();
    assert!(single.deckies[1].personas.is_empty());
}

#[test]
fn settings_for_a_decky_that_is_not_there_are_left_out_with_a_warning() {
    let document = parse("[a]\nservices=ssh\n[ghost.ssh]\npassword=never-used").unwrap();
    assert_eq!(document.warnings.len(), 1);
    assert_eq!(
        document.warnings[0].to_string(),
        "line 3: [ghost.ssh] left out: no decky of this text is called ghost"
    );
    // Their keys are checked all the same.
    assert_eq!(fault("[a]\n[ghost.ssh]\ncolour=red").class, IniClass::UnknownKey);
}

/// Names with dots and unknown keys were taken; such a decky could later be neither changed nor deleted.
#[test]
fn a_dotted_decky_name_and_an_ignored_key_are_refused_together() {
    let text = "[shop.internal]\nservices = https\nowner = finance\n[shop.internal.https]\n\
                tls_cn = shop.example.test\n[ghost.ssh]\npassword = never-used\n";
    let errors = parse(text).unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error.line.unwrap(), error.class))
        .collect();
    assert_eq!(places, [(1, IniClass::Name), (3, IniClass::UnknownKey)]);
    assert!(
        errors[0].message.contains("`internal` is not a service"),
        "{}",
        errors[0]
    );
}

/// INI names allowed what the endpoints did not, so `Web01`, `a.b` and `x_y` could not be mutated or deleted.
#[test]
fn a_decky_name_is_one_dns_label_also_after_the_amount_is_applied() {
    let long = "a".repeat(61);
    for bad in [
        "Web01",
        "a.b",
        "x_y",
        "-a",
        "a-",
        &"a".repeat(64),
        "a/b",
        " a",
        "General",
    ] {
        assert_eq!(
            fault(&format!("[{bad}]\nservices=ssh")).class,
            IniClass::Name,
            "{bad}"
        );
    }
    assert!(parse(&format!("[{long}]")).is_ok());
    assert_eq!(fault(&format!("[{long}]\namount=2")).class, IniClass::Name);
    assert!(fault("[General]").message.contains("[general]"));
}

/// A lone `%` and a key without a value got past the first parser and crashed the second.
#[test]
fn a_percent_sign_is_literal_and_a_key_without_value_is_a_fault_of_its_line() {
    let text = "[a]\nservices=ssh\n[a.ssh]\npassword=100%\nuser=%(x)s";
    let document = parse(text).unwrap();
    let persona = &document.deckies[0].personas[&"ssh".parse().unwrap()].value.0;
    assert_eq!(
        (&persona["password"], &persona["user"]),
        (&"100%".into(), &"%(x)s".into())
    );
    let error = fault("[a]\nservices");
    assert_eq!(
        (error.class, error.line, error.class.status()),
        (IniClass::Syntax, Some(2), 409)
    );
}

/// `[w] amount=2` beside `[w-01]`, and one `ip` in two sections, were both accepted.
#[test]
fn a_name_or_an_address_used_twice_is_a_collision() {
    let error = fault("[w]\namount=2\n[w-01]");
    assert_eq!((error.class, error.line), (IniClass::Collision, Some(3)));
    assert!(error.message.contains("[w] on line 1"), "{error}");
    let error = fault("[a]\nip=10.0.0.9\n[b]\nip=10.0.0.9");
    assert_eq!((error.class, error.line), (IniClass::Collision, Some(4)));
}

/// `nla=false` was a text that is not empty, which counted as true.
#[test]
fn settings_have_the_types_of_their_schema() {
    let text = "[a]\nservices=https\n[a.https]\nresponse_code = 404\nhttp_versions = http/1.1, http/2, http/1.1\n\
                custom_body = b64:Z3LDvMOfZQ==\nfake_app = tomcat\ntls_cn =\n[b.rdp]\nnla = false";
    let document = parse(text).unwrap();
    let persona = &document.deckies[0].personas[&"https".parse().unwrap()].value.0;
    assert_eq!(
        serde_json::to_value(persona).unwrap(),
        serde_json::json!({
            "response_code": 404,
            "http_versions": ["http/1.1", "http/2"],
            "custom_body": "grüße",
            "fake_app": "tomcat",
        })
    );
    for bad in [
        "http_versions = http/9",
        "http_versions = [\"http/1.1\"",
        "custom_body = b64:%",
        "custom_body = b64:/w==",
        "fake_app = None",
    ] {
        let error = fault(&format!("[a]\nservices=https\n[a.https]\n{bad}"));
        assert_eq!((error.class, error.line), (IniClass::Persona, Some(4)), "{bad}");
    }
    assert_eq!(fault("[a]\n[a.rdp]\nnla=maybe").class, IniClass::Persona);
}

/// A container's environment takes no string over 128 KiB: such a decky would never have started.
#[test]
fn settings_that_no_container_could_be_given_are_refused() {
    let text = format!("[a]\nservices=http\n[a.http]\ncustom_body={}", "x".repeat(70_000));
    let error = fault(&text);
    assert_eq!((error.class, error.line), (IniClass::Persona, Some(3)));
}

/// Settings of a relay's upstream were accepted and never reached the container.
#[test]
fn a_setting_that_nothing_reads_is_refused() {
    let error = fault("[a]\n[a.smtp_relay]\nupstream_host=mail.example.test");
    assert_eq!(error.class, IniClass::UnknownKey);
    for key in ["files", "email_seed"] {
        assert!(parse(&format!("[a]\n[a.http]\n{key}=/srv\n[a.imap]\n{key}=/srv")).is_err());
    }
}

#[test]
fn a_service_without_a_decoy_is_refused_by_name_also_from_an_archetype() {
    let error = fault("[a]\nservices=smb, ssh");
    assert_eq!(
        (error.class, error.class.status(), error.section.as_deref()),
        (IniClass::Service, 409, Some("a"))
    );
    assert!(
        error
            .message
            .contains("service `smb` has no decoy yet; available: ftp, http, https"),
        "{error}"
    );
    let error = fault("[files]\narchetype=file-server");
    assert!(
        error
            .message
            .contains("service `smb` of archetype file-server has no decoy yet"),
        "{error}"
    );
    // The archetype still lends its family and distros to services of one's own.
    assert!(parse("[files]\narchetype=file-server\nservices=ftp,ssh").is_ok());
}

/// Two services of one decky fought for a port, and one of them never came up.
#[test]
fn services_that_listen_on_one_port_cannot_share_a_decky() {
    let text = "[custom-web]\nbinary=x\nports=8080,80\n[custom-log]\nbinary=x\nports=80/udp\n\
                [a]\nservices=http,log\n[b]\nservices=http,web";
    let error = fault(text);
    assert_eq!(
        (error.class, error.section.as_deref()),
        (IniClass::Service, Some("b"))
    );
    assert!(
        error.message.contains("`http` and `web` both listen on 80/tcp"),
        "{error}"
    );
    let error = fault("[a]\nservices=smtp,smtp_relay\n[b]\nservices=smtp\n[c]\nservices=smtp_relay");
    assert_eq!(
        (error.class, error.section.as_deref(), error.key.as_deref()),
        (IniClass::Service, Some("a"), Some("services"))
    );
    assert!(
        error
            .message
            .contains("`smtp` and `smtp_relay` both listen on 25/tcp; put them on two deckies"),
        "{error}"
    );
}

#[test]
fn custom_services_are_read_before_the_sections_that_use_them() {
    let text = "[gw1]\nservices = relay, ssh\n[gw1.relay]\n[custom-relay]\nbinary = registry.example.test/relay:2\n\
                exec = /srv/relay --port 9100\nports = 9100, 9101/udp\n";
    let document = parse(text).unwrap();
    assert_eq!(
        slugs(&document.deckies[0].services.as_ref().unwrap().value),
        ["relay", "ssh"]
    );
    let relay = &document.custom_services[&"relay".parse().unwrap()].value;
    assert_eq!(relay.command, ["/srv/relay", "--port", "9100"]);
    assert_eq!(format!("{:?}", relay.ports), "[9100/tcp, 9101/udp]");
    let with_setting = text.replace("[gw1.relay]", "[gw1.relay]\nkey=1");
    assert_eq!(fault(&with_setting).class, IniClass::UnknownKey);
}

#[test]
fn a_custom_service_of_the_fleet_is_known_to_later_texts() {
    let first = parse("[custom-relay]\nbinary=x\n[a]\nservices=relay").unwrap();
    let known = first
        .custom_services
        .into_iter()
        .map(|(slug, at)| (slug, at.value))
        .collect();
    let catalogue = &crate::fleet::fixture::CATALOGUE;
    assert!(parse_with("[b]\nservices=relay", catalogue, &known).is_ok());
    assert_eq!(fault("[b]\nservices=relay").class, IniClass::Service);
}

#[test]
fn every_fault_is_in_one_answer_in_line_order() {
    let text = "[a]\nservices=ssh,ssh,\nip=nowhere\nowner=me\nbroken\n[b\nservices=ssh\n[c]\narchetype=toaster\namount=0";
    let lines: Vec<usize> = parse(text)
        .unwrap_err()
        .iter()
        .map(|error| error.line.unwrap())
        .collect();
    assert_eq!(lines, [2, 2, 3, 4, 5, 6, 9, 10]);
}

#[test]
fn an_answer_has_a_hundred_faults_and_a_count_of_the_rest() {
    let text = format!("[a]\n{}", "broken\n".repeat(5_000));
    let errors = parse(&text).unwrap_err();
    assert_eq!(errors.len(), MAX_ERRORS + 1);
    let last = errors.last().unwrap();
    assert_eq!(
        (last.class, last.message.starts_with("and 4900 more")),
        (IniClass::More, true),
        "{last}"
    );
}

#[test]
fn many_ghosts_do_not_make_endless_warnings() {
    let ghosts: String = (0..3_000).map(|n| format!("[g{n}.ssh]\n")).collect();
    let document = parse(&format!("[a]\n{ghosts}")).unwrap();
    assert_eq!(document.warnings.len(), MAX_ERRORS + 1);
    assert_eq!(
        document.warnings.last().unwrap().message,
        "and 2900 more warnings"
    );
}

/// 37,000 sections of 100 deckies fit into the size limit; expanding them would take all memory.
#[test]
fn a_text_cannot_describe_more_deckies_than_any_fleet_has() {
    let text: String = (0..20_000).map(|n| format!("[a{n}]\namount=100\n")).collect();
    assert_eq!(fault(&text).class, IniClass::Limit);
}

/// Looking for an earlier key line by line took minutes for a section with as many keys as fit.
#[test]
fn a_section_with_very_many_keys_is_read_at_once() {
    let keys: String = (0..60_000).map(|n| format!("k{n}=\n")).collect();
    assert_eq!(
        classes(&format!("[a]\nservices=ssh\n[a.ssh]\n{keys}")).len(),
        MAX_ERRORS + 1
    );
    assert_eq!(classes(&format!("[a]\n{keys}")).len(), MAX_ERRORS + 1);
}

#[test]
fn a_message_names_line_section_key_and_what_to_do() {
    let error = fault("[web]\nservices = ssh\nowner = me");
    assert!(
        error
            .to_string()
            .starts_with("line 3: [web] owner: is not a key of a decky"),
        "{error}"
    );
    assert!(error.to_string().contains("remove it"), "{error}");
}

#[test]
fn a_refused_secret_is_not_repeated_in_the_answer() {
    let errors =
        parse("[a]\nservices=https\n[a.https]\ntls_key=b64:c2VjcmV0!!\n[a.ssh]\nwrong=hunter2").unwrap_err();
    let shown = format!("{errors:?}");
    assert!(
        !shown.contains("c2VjcmV0") && !shown.contains("hunter2"),
        "{shown}"
    );
    let document = parse("[a]\nservices=ssh\n[a.ssh]\npassword=hunter2").unwrap();
    assert!(!format!("{document:?}").contains("hunter2"));
}

#[test]
fn the_examples_of_the_project_fit_the_default_limit_and_show_every_decoy() {
    let mut master = master();
    let office = master.add(include_str!("../../../../examples/office.ini"));
    assert!(office.warnings.is_empty(), "{:?}", office.warnings);
    assert_eq!(office.fleet.deckies.len(), 8);
    let mut shown: Vec<&str> = office
        .fleet
        .deckies
        .values()
        .flat_map(|decky| slugs(&decky.services))
        .collect();
    assert!(shown.len() >= 14);
    shown.sort_unstable();
    shown.dedup();
    let decoys: Vec<&str> = crate::fleet::fixture::CATALOGUE
        .deployable()
        .map(|service| service.slug.as_str())
        .collect();
    assert_eq!(shown, decoys);
    let branch = master.add(include_str!("../../../../examples/branch.ini"));
    assert!(branch.warnings.is_empty(), "{:?}", branch.warnings);
    assert_eq!((branch.changes.len(), branch.fleet.deckies.len()), (2, 10));
}
