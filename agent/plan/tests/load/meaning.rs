//! What files mean: each case is what `docker compose config` makes of it.

use serde_json::json;

use super::Project;

const TWO: &str = "services: {web: {image: x}}";

#[test]
fn sequences_append_and_things_with_an_identity_are_replaced() {
    let project = Project::new(
        "services:
  web:
    image: x
    command: one two
    ports: ['80:80', '90:90']
    volumes: ['data:/data', './a:/a']
    environment: [A=1, B=2]
    labels: {a: 1}
    dns: 1.1.1.1
    cap_add: [NET_ADMIN]
    security_opt: [a]
    healthcheck: {test: [CMD, a], interval: 1s}
    devices: ['/dev/null:/dev/x']
    tmpfs: /t
volumes: {data: }",
    )
    .over(
        "services:
  web:
    command: [three]
    ports: ['80:80', '91:90/udp', {target: 90, published: 90}]
    volumes: ['./b:/data', './c:/c']
    environment: {B: 3, C: }
    labels: [b=2]
    dns: [1.1.1.1, 2.2.2.2]
    cap_add: [NET_ADMIN, SYS_TIME]
    security_opt: [b]
    healthcheck: {test: exit 1}
    devices: ['/dev/zero:/dev/x:r']
    tmpfs: [/t, /u]",
    );
    let web = project.service("web");
    assert_eq!(web["command"], json!(["three"]));
    let ports: Vec<_> = web["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (&p["published"], &p["protocol"]))
        .collect();
    assert_eq!(json!(ports), json!([["80", "tcp"], ["90", "tcp"], ["91", "udp"]]));
    let mounts: Vec<_> = web["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (&m["source"], &m["target"]))
        .collect();
    assert_eq!(
        json!(mounts),
        json!([
            ["/srv/app/b", "/data"],
            ["/srv/app/a", "/a"],
            ["/srv/app/c", "/c"]
        ])
    );
    assert_eq!(web["environment"], json!({"A": "1", "B": "3", "C": null}));
    assert_eq!(web["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(web["dns"], json!(["1.1.1.1", "2.2.2.2"]));
    assert_eq!(web["cap_add"], json!(["NET_ADMIN", "SYS_TIME"]));
    assert_eq!(web["security_opt"], json!(["a", "b"]));
    assert_eq!(
        web["healthcheck"],
        json!({"test": ["CMD-SHELL", "exit 1"], "interval": "1s"})
    );
    assert_eq!(
        web["devices"],
        json!([{"source": "/dev/zero", "target": "/dev/x", "permissions": "r"}])
    );
    assert_eq!(web["tmpfs"], json!(["/t", "/u"]));
    // Nothing uses it any more.
    assert_eq!(project.document().get("volumes"), None);
}

#[test]
fn mappings_with_rules_of_their_own_follow_them() {
    let base = "services:
  web:
    image: x
    logging: {driver: json-file, options: {a: '1', b: '2'}}
    ulimits: {nofile: {soft: 1, hard: 2}}
    depends_on: {db: {condition: service_healthy, required: false}}
    networks: [front]
    build: ./web
  db: {image: y}
networks: {front: , back: }";
    let web = |over: &str| Project::new(base).over(over).service("web");
    let merged = web("services: {web: {logging: {options: {b: '3'}}, build: {target: t}}}");
    assert_eq!(merged["logging"]["options"], json!({"a": "1", "b": "3"}));
    assert_eq!(merged["build"]["context"], "/srv/app/web");
    assert_eq!(merged["build"]["target"], "t");
    let merged = web(
        "services: {web: {logging: {driver: syslog}, ulimits: {nofile: 9}, networks: {back: {aliases: [b]}}}}",
    );
    assert_eq!(merged["logging"], json!({"driver": "syslog"}));
    assert_eq!(merged["ulimits"], json!({"nofile": 9}));
    assert_eq!(
        merged["networks"],
        json!({"front": null, "back": {"aliases": ["b"]}})
    );
    let merged = web("services: {web: {depends_on: {db: {condition: service_started}}}}");
    assert_eq!(
        merged["depends_on"]["db"],
        json!({"condition": "service_started", "required": false})
    );
    let merged = web("services: {web: {depends_on: [db]}}");
    assert_eq!(
        merged["depends_on"]["db"],
        json!({"condition": "service_started", "required": true})
    );
}

#[test]
fn reset_takes_away_and_override_replaces() {
    let project = Project::new(
        "services:
  web: {image: x, command: c, ports: ['1:1'], environment: {A: 1, B: 2}, labels: {a: b}, dns: [1.1.1.1]}
  gone: {image: y}",
    )
    .over(
        "services:
  web:
    command: !reset null
    ports: !reset []
    environment: {A: !reset null, C: 3}
    labels: !override {c: d}
    dns: !override [2.2.2.2]
  gone: !reset {}",
    );
    let services = project.document()["services"].clone();
    assert_eq!(
        services,
        json!({"web": {
            "image": "x",
            "environment": {"B": "2", "C": "3"},
            "labels": {"c": "d"},
            "dns": ["2.2.2.2"],
            "networks": {"default": null},
        }})
    );
}

#[test]
fn nothing_in_a_later_file_leaves_the_earlier_value_but_for_commands() {
    let project = Project::new("services: {web: {image: x, command: c, hostname: h, ports: ['1:1']}}")
        .over("services: {web: {command: , hostname: , ports: }}");
    let web = project.service("web");
    assert_eq!((&web["hostname"], web.get("command")), (&json!("h"), None));
    assert_eq!(web["ports"].as_array().unwrap().len(), 1);
}

#[test]
fn documents_of_one_file_merge_like_files() {
    let project =
        Project::new("services: {web: {image: x, ports: ['1:1']}}\n---\nservices: {web: {ports: ['2:2']}}\n");
    assert_eq!(project.service("web/ports").as_array().unwrap().len(), 2);
}

#[test]
fn a_service_extends_another_of_any_file_with_that_files_paths() {
    let project = Project::new(
        "services:
  web:
    extends: {file: sub/base.yaml, service: web}
    volumes: ['./own:/own']
    ports: !override ['3:3']
  api: {extends: web, hostname: api}",
    )
    .file(
        "sub/base.yaml",
        "services: {web: {image: 'x:${TAG:-1}', volumes: ['./data:/data'], ports: ['1:1'], extends: {file: ../deep.yaml, service: d}}}",
    )
    .file("deep.yaml", "services: {d: {image: y, working_dir: /w, volumes: ['./deep:/deep'], ports: ['2:2'], env_file: d.env}}")
    .file("d.env", "FROM=deep");
    for name in ["web", "api"] {
        let service = project.service(name);
        assert_eq!(service["image"], "x:1");
        assert_eq!(service["working_dir"], "/w");
        assert_eq!(service["environment"], json!({"FROM": "deep"}));
        let sources: Vec<_> = service["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["source"])
            .collect();
        assert_eq!(
            json!(sources),
            json!(["/srv/app/deep", "/srv/app/sub/data", "/srv/app/own"])
        );
        assert_eq!(service["ports"].as_array().unwrap().len(), 1);
        assert_eq!(service.get("extends"), None);
    }
}

#[test]
fn services_that_extend_each_other_are_refused() {
    let project = Project::new("services:\n  a:\n    extends: {file: b.yaml, service: b}\n").file(
        "b.yaml",
        "services:\n  b:\n    extends: {file: compose.yaml, service: a}\n",
    );
    let errors = project.errors();
    assert_eq!(
        errors,
        [
            "b.yaml:3:5: services.b.extends: the services extend each other: a, b, a"
                .replace("b.yaml", "/srv/app/b.yaml")
        ]
    );
}

#[test]
fn a_long_chain_of_extends_is_refused_and_not_followed() {
    let mut text = "services:\n  s0: {image: x}\n".to_owned();
    for i in (1..10_000).rev() {
        text.push_str(&format!("  s{i}: {{extends: s{}}}\n", i - 1));
    }
    let errors = Project::new(&text).errors();
    assert!(
        errors[0].contains("more than 64 services extend one another"),
        "{}",
        errors[0]
    );
}

#[test]
fn included_files_join_with_their_own_paths_and_variables() {
    let project = Project::new(
        "include:
  - part/compose.yaml
  - path: [two/compose.yaml, two/over.yaml]
    env_file: two.env
    project_directory: elsewhere
services: {web: {image: x, depends_on: [part, two]}}",
    )
    .file(
        "part/compose.yaml",
        "name: not-mine\nservices: {part: {image: 'p:${V}-${OUT}', volumes: ['./d:/d', 'data:/data']}}\nvolumes: {data: }",
    )
    .file("part/.env", "V=inner\nOUT=inner")
    .file("two/compose.yaml", "services: {two: {image: 't:${T}'}}")
    .file("two/over.yaml", "services: {two: {build: .}}")
    .file("two.env", "T=five")
    .env("OUT", "outer");
    let document = project.document();
    assert_eq!(document["name"], "app");
    assert_eq!(document["services"]["part"]["image"], "p:inner-outer");
    assert_eq!(
        document["services"]["part"]["volumes"][0]["source"],
        "/srv/app/part/d"
    );
    assert_eq!(document["services"]["two"]["image"], "t:five");
    assert_eq!(
        document["services"]["two"]["build"]["context"],
        "/srv/app/elsewhere"
    );
    assert_eq!(document["volumes"], json!({"data": {"name": "app_data"}}));
}

#[test]
fn an_included_service_is_no_other_than_ones_own() {
    let errors = Project::new("include: [b.yaml]\nservices: {web: {image: x}}")
        .file("b.yaml", "services: {web: {image: y}}")
        .errors();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("/srv/app/compose.yaml:1:11: include[0]: services.web is in the included file"),
        "{errors:?}"
    );
    let errors = Project::new("include: [b.yaml]\nservices: {web: {image: x}}")
        .file("b.yaml", "include: [compose.yaml]")
        .errors();
    assert!(errors[0].contains("the files include each other"), "{errors:?}");
    // The same thing by two ways is one thing.
    let project = Project::new("include: [b.yaml, c.yaml]")
        .file("b.yaml", "include: [d.yaml]\nservices: {b: {image: b}}")
        .file("c.yaml", "include: [d.yaml]\nservices: {c: {image: c}}")
        .file("d.yaml", "services: {d: {image: d, ports: ['80:80'], build: .}}");
    assert_eq!(project.document()["services"].as_object().unwrap().len(), 3);
}

#[test]
fn profiles_choose_services_and_a_required_dependency_must_be_among_them() {
    let text = "services:
  web: {image: x}
  debug: {image: y, profiles: [debug]}
  both: {image: z, profiles: [debug, test]}
networks: {}";
    let names = |project: Project| {
        let services = project.document()["services"].clone();
        services
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names(Project::new(text)), "web");
    assert_eq!(names(Project::new(text).profile("test")), "both web");
    assert_eq!(
        names(Project::new(text).env("COMPOSE_PROFILES", "debug, x")),
        "both debug web"
    );
    assert_eq!(names(Project::new(text).profile("*")), "both debug web");
    let errors = Project::new(text)
        .over("services: {web: {links: [debug]}}")
        .errors();
    assert_eq!(
        errors,
        ["over-1.yaml:1:18: services.web.depends_on.debug: the service debug is in no active profile: activate one with --profile"
            .replace("1:18", "1:26")]
    );
    let optional = "services: {web: {depends_on: {debug: {condition: service_started, required: false}}}}";
    assert_eq!(
        Project::new(text).over(optional).service("web").get("depends_on"),
        None
    );
}

#[test]
fn env_files_fold_into_the_environment_in_order() {
    let project = Project::new(
        "services:
  web:
    image: x
    env_file: [a.env, {path: b.env}, {path: none.env, required: false}, {path: raw.env, format: raw}]
    environment: {OWN: own, NONE: , OUTER: }",
    )
    .file("a.env", "A=1\nB=1\nOWN=file\nNONE=file\nOUT")
    .file("b.env", "B=2\nC=\"${B}-${OWN}-${OUT}\"\n")
    .file("raw.env", "R='$A' # x\n")
    .env("OUT", "out")
    .env("OUTER", "outer");
    assert_eq!(
        project.service("web/environment"),
        json!({"A": "1", "B": "2", "C": "2-own-out", "NONE": null, "OUT": "out", "OUTER": "outer", "OWN": "own", "R": "'$A' # x"})
    );
    assert_eq!(project.service("web").get("env_file"), None);
}

#[test]
fn label_files_fold_into_the_labels() {
    let project = Project::new("services: {web: {image: x, label_file: l, labels: {a: own}}}")
        .file("l", "a=file\nb=file");
    assert_eq!(project.service("web/labels"), json!({"a": "own", "b": "file"}));
}

#[test]
fn variables_come_from_the_environment_before_the_env_file() {
    let text = "services: {web: {image: 'x:${A}-${B}-${COMPOSE_PROJECT_NAME}'}}";
    let project = Project::new(text).file(".env", "A=file\nB=${A}").env("A", "env");
    assert_eq!(project.service("web/image"), "x:env-env-app");
    let mut project = Project::new(text)
        .file(".env", "A=no")
        .file("one.env", "A=1\nB=1")
        .file("two.env", "B=2");
    project.inputs.env_files = vec!["one.env".into(), "two.env".into()];
    assert_eq!(project.service("web/image"), "x:1-2-app");
    let loaded = Project::new(text).load().unwrap();
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
}

#[test]
fn the_name_comes_from_the_flag_the_environment_the_files_and_the_directory() {
    let name = |project: &Project| project.load().unwrap().project_name;
    let named = "name: ${N:-Two Words}\nservices: {web: {image: x}}";
    let mut project = Project::new(TWO);
    assert_eq!(name(&project), "app");
    assert_eq!(name(&Project::new(named)), "twowords");
    assert_eq!(name(&Project::new(named).over("name: later")), "later");
    assert_eq!(
        name(&Project::new(named).env("COMPOSE_PROJECT_NAME", "env")),
        "env"
    );
    assert_eq!(
        name(&Project::new(named).file(".env", "COMPOSE_PROJECT_NAME=dotenv")),
        "dotenv"
    );
    project.inputs.project_name = Some("flag".to_owned());
    assert_eq!(name(&project.env("COMPOSE_PROJECT_NAME", "env")), "flag");
    let mut bad = Project::new(TWO);
    bad.inputs.project_name = Some("Bad".to_owned());
    assert!(
        bad.errors()[0].starts_with("the project name \"Bad\" is no project name"),
        "{:?}",
        bad.errors()
    );
}

#[test]
fn files_are_found_upwards_with_their_override() {
    let mut project = Project::new(TWO).file("compose.override.yaml", "services: {web: {hostname: o}}");
    project.inputs.current_dir = "/srv/app/deep/er".into();
    assert_eq!(project.service("web/hostname"), "o");
    assert_eq!(
        project.load().unwrap().project_directory.to_str(),
        Some("/srv/app")
    );
    let project = Project::new(TWO)
        .file("b.yaml", "services: {web: {hostname: b}}")
        .env("COMPOSE_FILE", "compose.yaml:b.yaml");
    assert_eq!(project.service("web/hostname"), "b");
    let mut none = Project::new(TWO);
    none.inputs.current_dir = "/elsewhere".into();
    assert_eq!(
        none.errors(),
        ["/elsewhere: there is no compose.yaml here or above: name one with -f"]
    );
}

#[test]
fn what_is_meant_but_not_said_is_filled_in() {
    let document = Project::new(
        "services:
  web: {build: {dockerfile: ../D}, links: ['db:d'], volumes_from: [data], secrets: [key], pull_policy: if_not_present}
  db: {image: y, network_mode: none, pid: 'service:data'}
  data: {image: z, networks: [own]}
networks: {own: {external: true}, unused: {}}
secrets: {key: {environment: KEY}}",
    )
    .env("KEY", "hush")
    .document();
    let web = &document["services"]["web"];
    assert_eq!(web["build"], json!({"context": "/srv/app", "dockerfile": "../D"}));
    let started = json!({"condition": "service_started", "required": true});
    let with_restart = json!({"condition": "service_started", "required": true, "restart": true});
    assert_eq!(web["depends_on"], json!({"db": with_restart, "data": started}));
    assert_eq!(
        web["secrets"],
        json!([{"source": "key", "target": "/run/secrets/key"}])
    );
    assert_eq!(web["pull_policy"], "missing");
    assert_eq!(
        document["services"]["db"]["depends_on"],
        json!({"data": with_restart})
    );
    assert_eq!(
        document["networks"],
        json!({"default": {"name": "app_default"}, "own": {"name": "own", "external": true}})
    );
    assert_eq!(
        document["secrets"]["key"],
        json!({"name": "app_key", "environment": "KEY", "content": "hush"})
    );
    let shown = decnet_plan::compose::load::printable(&document);
    assert_eq!(
        shown["secrets"]["key"],
        json!({"name": "app_key", "environment": "KEY"})
    );
}

#[test]
fn values_take_their_last_form_wherever_they_come_from() {
    let web = Project::new(
        "services:
  web:
    image: x
    mem_limit: ${SIZE:-1.5g}
    stop_grace_period: 90s
    cpus: '0.5'
    privileged: yes
    scale: '2'
    command: sh -c \"a b\"
    entrypoint: ''
    extra_hosts: ['a:1.2.3.4', 'b=[::1]']
    sysctls: [net.a=1]
    expose: [80]
    configs: [{source: c, mode: 0440}]
    deploy: {replicas: 2, resources: {limits: {memory: 64m, cpus: 0.5}}}
    ulimits: {nproc: '5'}
configs: {c: {content: $$x}}",
    );
    let errors = web.errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("services.web.mem_limit: is another value than deploy.resources.limits.memory"),
        "{errors:?}"
    );
    let web = web.env("SIZE", "64 MB").document();
    assert_eq!(web["configs"]["c"]["content"], "$x");
    let web = &web["services"]["web"];
    for (key, value) in [
        ("mem_limit", json!("67108864")),
        ("stop_grace_period", json!("1m30s")),
        ("cpus", json!(0.5)),
        ("privileged", json!(true)),
        ("scale", json!(2)),
        ("command", json!(["sh", "-c", "a b"])),
        ("entrypoint", json!([])),
        ("extra_hosts", json!(["a=1.2.3.4", "b=::1"])),
        ("sysctls", json!({"net.a": "1"})),
        ("expose", json!(["80"])),
        ("configs", json!([{"source": "c", "mode": "0440"}])),
        ("ulimits", json!({"nproc": 5})),
    ] {
        assert_eq!(web[key], value, "{key}");
    }
}

#[test]
fn places_are_found_by_path_through_merges_and_short_forms() {
    let project = Project::new("services:\n  web:\n    image: x\n    ports:\n      - 80:80\n")
        .over("services:\n  web:\n    ports:\n      - 90-91:90-91\n    environment:\n      - A=1\n");
    let positions = project.load().unwrap().positions;
    for (path, place) in [
        ("services.web.image", "compose.yaml:3:5"),
        ("services.web.ports[0]", "compose.yaml:5:9"),
        ("services.web.ports.1.target", "over-1.yaml:4:9"),
        ("services.web.ports[2]", "over-1.yaml:4:9"),
        ("services.web.environment.A", "over-1.yaml:6:9"),
        ("services.web.nothing.here", "compose.yaml:2:3"),
    ] {
        assert_eq!(
            positions.find(path).map(ToString::to_string).as_deref(),
            Some(place),
            "{path}"
        );
    }
    assert_eq!(positions.find("nowhere.at.all"), None);
}

#[test]
fn a_command_that_needs_a_shell_warns() {
    let loaded = Project::new("services: {web: {image: x, command: a && b}}")
        .load()
        .unwrap();
    assert_eq!(loaded.document["services"]["web"]["command"], json!(["a"]));
    assert!(
        loaded.warnings[0].contains("services.web.command: no shell runs here"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn an_empty_text_is_none_as_a_variable_without_a_value_leaves_it() {
    let project = Project::new(
        "services:
  web: {image: $NONE, platform: $NONE, container_name: $NONE, user: '', build: {context: ., dockerfile: $NONE}, volumes: ['v:/v']}
volumes: {v: {name: $NONE}}",
    );
    assert_eq!(
        project.document(),
        json!({
            "name": "app",
            "services": {"web": {
                "build": {"context": "/srv/app", "dockerfile": "Dockerfile"},
                "networks": {"default": null},
                "volumes": [{"type": "volume", "source": "v", "target": "/v", "volume": {}}],
            }},
            "networks": {"default": {"name": "app_default"}},
            "volumes": {"v": {"name": "app_v"}},
        })
    );
    let without = Project::new("services: {web: {image: $NONE}}").errors();
    assert!(without[0].contains("neither image nor build"), "{without:?}");
}

#[test]
fn devices_that_a_driver_finds_are_asked_for_in_one_form() {
    let web = Project::new(
        "services:
  web:
    image: x
    gpus: all
    deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: '2', options: [a=b]}]}}}",
    )
    .service("web");
    assert_eq!(web["gpus"], json!([{"count": -1}]));
    assert_eq!(
        web["deploy"]["resources"]["reservations"]["devices"],
        json!([{"capabilities": ["gpu"], "count": 2, "options": {"a": "b"}}])
    );
    for (devices, problem) in [
        ("[{count: 1}]", "needs capabilities"),
        ("[{capabilities: [gpu], count: some}]", "all or a whole number"),
        (
            "[{capabilities: [gpu], count: 1, device_ids: ['0']}]",
            "both count and device_ids",
        ),
    ] {
        let text = format!(
            "services: {{web: {{image: x, deploy: {{resources: {{reservations: {{devices: {devices}}}}}}}}}}}"
        );
        let errors = Project::new(&text).errors();
        assert!(errors[0].contains(problem), "{errors:?}");
    }
}
