//! What a resolved compose file and an archive may say, and what is added to the file.
use std::os::unix::fs::symlink;

use super::*;

fn config(service: &Value, rest: &Value) -> Value {
    let mut all = json!({"name": "shop", "services": {"web": service}, "networks": {"default": {"name": "shop_default", "ipam": {}}}});
    if let (Some(all), Some(rest)) = (all.as_object_mut(), rest.as_object()) {
        all.extend(rest.clone());
    }
    all
}

#[test]
fn what_stays_within_the_project_passes() {
    let release = tempfile::tempdir().unwrap();
    let conf = release.path().join("conf");
    fs::write(&conf, "").unwrap();
    let web = json!({
        "image": "shop/web:1", "command": ["serve"], "entrypoint": null, "environment": {"A": "1"}, "restart": "always",
        "ports": [{"target": 80, "published": "8080"}], "healthcheck": {"test": ["CMD", "true"]}, "privileged": false,
        "cap_add": [], "security_opt": ["no-new-privileges:true"], "network_mode": "none",
        "volumes": [{"type": "bind", "source": conf, "target": "/c", "read_only": true},
                    {"type": "volume", "source": "data", "target": "/d"}, {"type": "tmpfs", "target": "/tmp"}],
        "deploy": {"replicas": 2, "resources": {"limits": {"memory": "1"}}, "placement": {}},
    });
    let rest = json!({"volumes": {"data": {"name": "shop_data"}}, "configs": {"c": {"name": "shop_c", "file": conf}}, "x-note": 1});
    assert_eq!(beyond(&config(&web, &rest), "shop", release.path()), Vec::<String>::new());
}

#[test]
fn whatever_reaches_beyond_it_is_named() {
    let release = tempfile::tempdir().unwrap();
    let link = release.path().join("link");
    symlink("/etc", &link).unwrap();
    for (service, words) in [
        (json!({"privileged": true}), "services.web.privileged"),
        (json!({"network_mode": "host"}), "services.web.network_mode: `host`"),
        (json!({"network_mode": "container:db"}), "services.web.network_mode: `container:db`"),
        (json!({"pid": "host"}), "services.web.pid"),
        (json!({"ipc": "host"}), "services.web.ipc: `host`"),
        (json!({"uts": "host"}), "services.web.uts"),
        (json!({"userns_mode": "host"}), "services.web.userns_mode"),
        (json!({"devices": ["/dev/kvm"]}), "services.web.devices"),
        (json!({"cap_add": ["SYS_ADMIN"]}), "services.web.cap_add"),
        (json!({"security_opt": ["seccomp:unconfined"]}), "services.web.security_opt: \"seccomp:unconfined\""),
        (json!({"volumes_from": ["container:db"]}), "services.web.volumes_from"),
        (json!({"build": {"context": "."}}), "services.web.build"),
        (json!({"provider": {"type": "sh"}}), "services.web.provider"),
        (json!({"use_api_socket": true}), "services.web.use_api_socket"),
        (json!({"post_start": [{"privileged": true}]}), "services.web.post_start"),
        (json!({"logging": {"driver": "syslog"}}), "services.web.logging: `syslog`"),
        (json!({"oom_score_adj": -1000}), "services.web.oom_score_adj"),
        (
            json!({"deploy": {"resources": {"reservations": {"devices": [{}]}}}}),
            "services.web.deploy.resources.reservations.devices",
        ),
        (
            json!({"volumes": [{"type": "bind", "source": "/run/docker.sock", "read_only": true}]}),
            "/run/docker.sock lies outside",
        ),
        (json!({"volumes": [{"type": "bind", "source": link, "read_only": true}]}), "link lies outside"),
        (json!({"volumes": [{"type": "bind", "source": release.path(), "target": "/r"}]}), "would be writable"),
        (json!({"volumes": [{"type": "npipe", "source": "x"}]}), "a mount of type `npipe`"),
    ] {
        let found = beyond(&config(&service, &json!({})), "shop", release.path());
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }
    for (rest, words) in [
        (json!({"volumes": {"d": {"name": "shop_d", "driver_opts": {"device": "/"}}}}), "volumes.d.driver_opts"),
        (json!({"volumes": {"d": {"name": "other_d"}}}), "volumes.d: `other_d` is not the project's own"),
        (json!({"volumes": {"d": {"name": "shop_d", "external": true}}}), "volumes.d"),
        (json!({"networks": {"n": {"name": "shop_n", "driver": "host"}}}), "networks.n.driver: `host`"),
        (json!({"configs": {"c": {"name": "shop_c", "file": "/etc/shadow"}}}), "configs.c: /etc/shadow lies outside"),
        (json!({"secrets": {"s": {"external": true}}}), "secrets.s"),
        (json!({"models": {"m": {"model": "x"}}}), "models"),
    ] {
        let found = beyond(&config(&json!({}), &rest), "shop", release.path());
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }
}

#[test]
fn each_container_says_which_release_it_is_of() {
    let digest = Digest::from_hex(&"ab".repeat(32)).unwrap();
    let mut config = json!({"services": {
        "web": {"labels": {"a": "b", "lotabots.digest": "a lie"}, "deploy": {"replicas": 2},
                "depends_on": {"migrate": {"condition": "service_completed_successfully"}, "db": {"condition": "service_healthy"}}},
        "migrate": {}, "db": {"scale": 1},
    }});
    label(&mut config, &digest).unwrap();
    let web = &config["services"]["web"]["labels"];
    assert_eq!(
        (&web["a"], &web[DIGEST_LABEL], &web[COUNT_LABEL]),
        (&json!("b"), &json!(digest.to_string()), &json!("4"))
    );
    let runs = |name: &str| config["services"][name]["labels"][RUNS_LABEL].clone();
    assert_eq!((runs("web"), runs("migrate"), runs("db")), (json!("on"), json!("once"), json!("on")));
    assert!(label(&mut json!({"services": {}}), &digest).unwrap_err().contains("no services"));
}

#[test]
fn an_archive_takes_no_name_but_its_own() {
    let tagged = |tags: &str| format!("[{{\"Config\": \"c\", \"RepoTags\": {tags}, \"Layers\": []}}]");
    let index =
        |name: &str| format!("{{\"manifests\": [{{\"annotations\": {{\"io.containerd.image.name\": \"{name}\"}}}}]}}");
    assert_eq!(archive_beyond(&tagged("[\"shop/app:1\"]"), &index("docker.io/shop/app:1"), "shop/app"), None);
    assert_eq!(archive_beyond(&tagged("null"), "", "shop/app"), None);
    for (manifest, index, words) in [
        (tagged("[\"shop/app:1\", \"postgres:16\"]"), String::new(), "postgres:16"),
        (tagged("[\"shop/application:1\"]"), String::new(), "shop/application:1"),
        (tagged("null"), index("docker.io/library/debian:12"), "debian:12"),
        ("[{}, {}]".to_owned(), String::new(), "2 images"),
        (tagged("null") + &tagged("[\"debian:12\"]"), String::new(), "manifest.json is none"),
        (String::new(), String::new(), "`docker save`"),
    ] {
        let why = archive_beyond(&manifest, &index, "shop/app").unwrap();
        assert!(why.contains(words), "{words}: {why}");
    }
}
