//! Instructions as `docker commit --change` takes them.

use super::*;

fn changed(run: Value, changes: &[&str]) -> Value {
    let Value::Object(run) = run else {
        panic!("an object");
    };
    let mut running = Running::new(run);
    for change in changes {
        running.apply(&change.parse().unwrap()).unwrap();
    }
    Value::Object(running.finish())
}

#[test]
fn commands_are_arrays_or_lines_for_the_shell() {
    let run = || json!({"Cmd": ["old"], "Entrypoint": ["e"]});
    for (changes, expected) in [
        (
            &["CMD [\"a\", \"b c\"]"][..],
            json!({"Cmd": ["a", "b c"], "Entrypoint": ["e"]}),
        ),
        (
            &["cmd echo $HOME"],
            json!({"Cmd": ["/bin/sh", "-c", "echo $HOME"], "Entrypoint": ["e"]}),
        ),
        (
            &["CMD [not json"],
            json!({"Cmd": ["/bin/sh", "-c", "[not json"], "Entrypoint": ["e"]}),
        ),
        (&["CMD"], json!({"Cmd": null, "Entrypoint": ["e"]})),
        (&["CMD []"], json!({"Cmd": [], "Entrypoint": ["e"]})),
        (
            &["ENTRYPOINT [\"x\"]"],
            json!({"Cmd": null, "Entrypoint": ["x"]}),
        ),
        (
            &["CMD [\"c\"]", "ENTRYPOINT [\"x\"]"],
            json!({"Cmd": ["c"], "Entrypoint": ["x"]}),
        ),
        (
            &["ENTRYPOINT [\"x\"]", "CMD [\"c\"]"],
            json!({"Cmd": ["c"], "Entrypoint": ["x"]}),
        ),
    ] {
        assert_eq!(changed(run(), changes), expected, "{changes:?}");
    }
    assert_eq!(
        changed(json!({"Shell": ["/bin/bash", "-ec"]}), &["CMD x"])["Cmd"],
        json!(["/bin/bash", "-ec", "x"])
    );
}

#[test]
fn the_environment_keeps_its_order_and_sees_itself() {
    let run = json!({"Env": ["PATH=/bin", "A=1"]});
    assert_eq!(
        changed(
            run,
            &[
                "ENV PATH=$PATH:/x B=\"b c\" C=$B",
                "ENV D two words",
                "ENV A="
            ]
        )["Env"],
        json!(["PATH=/bin:/x", "A=", "B=b c", "C=", "D=two words"])
    );
}

#[test]
fn ports_volumes_and_labels_are_added() {
    let run = json!({"ExposedPorts": {"22/tcp": {}}, "Volumes": null, "Env": ["P=8080"]});
    let run = changed(
        run,
        &[
            "EXPOSE 80 53/UDP $P 1000-1002",
            "VOLUME [\"/a b\", \"/c\"]",
            "VOLUME /d /e",
            "LABEL a=1 \"b c\"=\"d e\"",
            "LABEL f g h",
        ],
    );
    let keys =
        |field: &str| -> Vec<String> { run[field].as_object().unwrap().keys().cloned().collect() };
    assert_eq!(
        keys("ExposedPorts"),
        [
            "1000/tcp", "1001/tcp", "1002/tcp", "22/tcp", "53/udp", "80/tcp", "8080/tcp"
        ]
    );
    assert_eq!(keys("Volumes"), ["/a b", "/c", "/d", "/e"]);
    assert_eq!(run["Labels"], json!({"a": "1", "b c": "d e", "f": "g h"}));
}

#[test]
fn the_rest_is_set_as_it_stands() {
    let run = json!({"WorkingDir": "/w", "Env": ["U=7"], "OnBuild": null, "Kept": {"x": 1}});
    assert_eq!(
        changed(
            run,
            &[
                "USER $U:8",
                "WORKDIR a/./b",
                "WORKDIR ../c",
                "ONBUILD RUN make $X"
            ]
        ),
        json!({"WorkingDir": "/w/a/c", "Env": ["U=7"], "OnBuild": ["RUN make $X"],
            "Kept": {"x": 1}, "User": "7:8"})
    );
    assert_eq!(changed(json!({}), &["WORKDIR /"])["WorkingDir"], "/");
    assert_eq!(changed(json!({}), &["WORKDIR x"])["WorkingDir"], "/x");
}

#[test]
fn what_is_wrong_is_told_by_its_kind() {
    let told = |text: &str| text.parse::<ConfigChange>().unwrap_err();
    assert_eq!(
        told("RUN make").to_string(),
        "\"RUN\" is no instruction for an image: \
         CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, USER, VOLUME, WORKDIR"
    );
    assert!(matches!(told(""), ChangeError::Unknown { .. }));
    assert_eq!(
        told("USER"),
        ChangeError::Empty {
            keyword: Keyword::User
        }
    );
    assert!(matches!(told("ENV A"), ChangeError::NoValue { .. }));
    assert!(matches!(told("ENV A=1 B"), ChangeError::NoValue { .. }));
    assert!(matches!(told("ENV =1"), ChangeError::NoValue { .. }));
    assert!(matches!(told("LABEL a='b"), ChangeError::Unfinished { .. }));
    assert!(matches!(told("VOLUME [1]"), ChangeError::NotWords { .. }));
    assert!(matches!(told("VOLUME ''"), ChangeError::Empty { .. }));
    for port in ["0", "65536", "9-8", "80/icmp", "x"] {
        assert!(
            matches!(told(&format!("EXPOSE {port}")), ChangeError::Port { .. }),
            "{port}"
        );
    }
    assert!(matches!(
        told("ONBUILD FROM x"),
        ChangeError::Trigger { .. }
    ));
    let mut run = Running::new(Map::from_iter([("Env".to_owned(), json!("no list"))]));
    assert_eq!(
        run.apply(&"ENV A=1".parse().unwrap()),
        Err(ChangeError::Field { field: "Env" })
    );
}
