//! Tests of record formats as registrations use them, and of adding, changing and removing them.

use super::*;

#[test]
fn the_ports_of_a_pod_need_keys_of_their_own() {
    let port = |name, number| ServicePort {
        name,
        number,
        scheme: None,
    };
    let two = [port("grpc", Some(8080)), port("http", None)];
    for (key, fits) in [
        (KEY, true),
        ("{{ prefix }}/{{ hostPort }}", true),
        ("{{ prefix }}/{{ portName }}/{{ pod }}", true),
        ("{{ prefix }}/{{ pod }}", false),
    ] {
        let formats = library(&spec(key, "1"));
        let compiled = used(&formats, &two, "/s/orders");
        assert_eq!(compiled.is_ok(), fits, "{key}: {compiled:?}");
        used(&formats, &two[..1], "/s/orders").expect("one port needs no name");
        if let Err(error) = compiled {
            assert!(
                error
                    .to_string()
                    .contains("the ports \"grpc\" and \"http\" of a pod would share"),
                "{error}"
            );
        }
    }
    let by_number = library(&spec("{{ prefix }}/{{ pod }}/{{ port }}", "1"));
    let same = [port("grpc", Some(8080)), port("http", Some(8080))];
    assert!(matches!(
        used(&by_number, &same, "/s/orders"),
        Err(FormatError::SharedByPorts { .. })
    ));
}

#[test]
fn a_format_that_is_not_there_or_broken_is_named() {
    let none = used(&RecordFormats::new(), &[], "/s/orders").unwrap_err().to_string();
    assert!(none.contains("there is no RecordFormat \"mine\""), "{none}");
    let broken = used(&library(&spec(KEY, "{{ nope }}")), &[], "/s/orders")
        .unwrap_err()
        .to_string();
    assert!(
        broken.contains("the RecordFormat \"mine\" cannot be used") && broken.contains("column 4"),
        "{broken}"
    );
    let missing = Format::compile(&of(FormatType::Custom), &ORDERS)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("Custom needs custom.recordFormatRef"), "{missing}");
}

#[test]
fn only_what_is_written_makes_a_new_version_of_a_format() {
    let sampled = |team: &str| {
        let sample = json!({"attributes": [{"name": "team", "value": team}]});
        let templates = Templates::compile(
            "mine",
            &RecordFormatSpec {
                sample: serde_json::from_value(sample).expect("decodes"),
                ..spec(KEY, "1")
            },
        );
        templates.expect("it makes sense")
    };
    let mut formats = RecordFormats::new();
    assert!(formats.set("mine", Ok(sampled("blue"))));
    assert!(!formats.set("mine", Ok(sampled("green"))));
    assert!(formats.set("mine", Templates::compile("mine", &spec(KEY, "2"))));
    assert!(formats.set("mine", Templates::compile("mine", &plain(KEY, "2"))));
}
