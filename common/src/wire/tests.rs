//! Tables hold bodies and query strings to what they say, and say what is wrong.

use super::*;

body! {
    /// A body with one field of each kind.
    struct Sample {
        required name "name": string(5), "A name.";
        optional text "text": string, "Any text.";
        optional count "count": integer(1, 10), "A count.";
        optional any_count "anyCount": integer, "Any count.";
        optional flag "flag": boolean, "A flag.";
        optional map "map": object, "An object.";
        optional list "list": array, "An array.";
        optional mode "mode": one_of("a", "b"), "A mode.";
        optional any "any": any, "Anything.";
        optional part "part": record(&PART), "A record.";
        optional parts "parts": records(&PART), "Records.";
        optional words "words": strings, "Words.";
    }
}

static PART: Record = Record {
    name: "Part",
    fields: fields![required "id": integer(1, 9), "An id."; optional "a": any, "More.";],
};

fn parse(text: &str) -> Result<Sample, Error> {
    Sample::parse(&object(text.as_bytes(), None)?)
}

#[test]
fn json_is_bounded_in_depth_and_elements() {
    let cases = [
        ("{}", 1, 1),
        (r#"{"a":[1,2],"b":{}}"#, 2, 5),
        (r#"{"a":"[[[,,,\"[[["}"#, 1, 1),
        (r#"{"a":"\\","b":[]}"#, 2, 3),
        ("]]][", 1, 1),
    ];
    for (text, depth, elements) in cases {
        assert_eq!(extent(text.as_bytes()), Extent { depth, elements }, "{text}");
    }
    let nested = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
    assert!(object(nested(MAX_DEPTH).as_bytes(), None).is_ok());
    assert_eq!(object(nested(MAX_DEPTH + 1).as_bytes(), None).unwrap_err().code, INVALID_JSON);
    let wide = |n: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(n - 2));
    assert!(object(wide(MAX_ELEMENTS).as_bytes(), None).is_ok());
    assert_eq!(object(wide(MAX_ELEMENTS + 1).as_bytes(), None).unwrap_err().code, INVALID_JSON);
}

#[test]
fn a_body_becomes_its_struct() {
    let text = r#"{"name":"n","text":"t","count":10,"anyCount":-1,"flag":true,"map":{"a":1},"list":[1],
        "mode":"b","any":[null],"unknown":1}"#;
    let sample = parse(text).unwrap();
    assert_eq!((sample.name.as_str(), sample.text.as_deref(), sample.count), ("n", Some("t"), Some(10)));
    assert_eq!((sample.any_count, sample.flag, sample.mode.as_deref()), (Some(-1), Some(true), Some("b")));
    assert_eq!(
        (sample.map.unwrap()["a"].clone(), sample.list, sample.any),
        (json!(1), Some(vec![json!(1)]), Some(json!([null])))
    );
    let nested =
        parse(r#"{"name":"n","part":{"id":1,"x":2},"parts":[{"id":9,"a":null}],"words":["w"]}"#).unwrap();
    assert_eq!((nested.part.unwrap()["id"].clone(), nested.parts.unwrap().len()), (json!(1), 1));
    assert_eq!(nested.words, Some(vec![json!("w")]));
    let absent = parse(r#"{"name":"n","text":null,"any":null}"#).unwrap();
    assert_eq!((absent.text, absent.any, absent.count), (None, None, None));
}

#[test]
fn a_refusal_names_the_field_and_what_it_must_be() {
    for (text, message) in [
        ("{}", "Field `name` is required."),
        (r#"{"name":null}"#, "Field `name` is required."),
        (r#"{"name":7}"#, "Field `name` must be a string of at most 5 bytes."),
        (r#"{"name":"123456"}"#, "Field `name` must be a string of at most 5 bytes."),
        (r#"{"name":"n","text":{}}"#, "Field `text` must be a string."),
        (r#"{"name":"n","count":0}"#, "Field `count` must be an integer from 1 to 10."),
        (r#"{"name":"n","count":11}"#, "Field `count` must be an integer from 1 to 10."),
        (r#"{"name":"n","count":1.5}"#, "Field `count` must be an integer from 1 to 10."),
        (r#"{"name":"n","anyCount":18446744073709551615}"#, "Field `anyCount` must be an integer."),
        (r#"{"name":"n","flag":"true"}"#, "Field `flag` must be true or false."),
        (r#"{"name":"n","map":[]}"#, "Field `map` must be an object."),
        (r#"{"name":"n","list":{}}"#, "Field `list` must be an array."),
        (r#"{"name":"n","mode":"c"}"#, "Field `mode` must be one of a, b."),
        (r#"{"name":"n","part":{"id":0}}"#, "Field `part.id` must be an integer from 1 to 9."),
        (r#"{"name":"n","part":7}"#, "Field `part` must be an object (Part)."),
        (r#"{"name":"n","parts":[{"id":1},{}]}"#, "Field `parts[1].id` is required."),
        (r#"{"name":"n","parts":{}}"#, "Field `parts` must be an array."),
        (r#"{"name":"n","words":["a",1]}"#, "Field `words[1]` must be a string."),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (INVALID_REQUEST, message), "{text}");
        assert!(message.contains(error.details.unwrap()["field"].as_str().unwrap()));
    }
}

#[test]
fn only_json_objects_are_bodies() {
    assert_eq!(object(b"", Some("text/plain")).unwrap(), Object::new());
    for text in [" \r\n", "\u{c}", "[]", "1", "null", "{", "{}x", "{'a':1}", "\u{0}", &"[".repeat(100_000)] {
        assert_eq!(object(text.as_bytes(), None).unwrap_err().code, INVALID_JSON, "{text:.20}");
    }
    assert_eq!(object(b"\xff", None).unwrap_err().code, INVALID_JSON);
    for media in ["application/json", "APPLICATION/JSON ; charset=utf-8", "application/problem+json"] {
        assert!(object(b"{}", Some(media)).is_ok(), "{media}");
    }
    for media in ["", "text/json", "application/x-json", "json", "text/plain; application/json"] {
        assert_eq!(object(b"{}", Some(media)).unwrap_err().code, UNSUPPORTED_MEDIA_TYPE, "{media}");
    }
}

#[test]
fn query_values_are_held_to_their_table() {
    let table: &[Field] = fields![
        optional "limit": integer(1, 10), "A limit.";
        optional "live": boolean, "Live.";
        optional "status": one_of("open", "closed"), "A status.";
        required "id": string(3), "An id.";
    ];
    let check = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        query(table, &pairs).map_err(|error| error.message)
    };
    assert_eq!(
        check(&[("id", "abc"), ("limit", "10"), ("live", "false"), ("status", "open"), ("x", "y")]),
        Ok(())
    );
    assert_eq!(check(&[]), Err("Query value `id` is required.".to_string()));
    for value in ["0", "11", "+5", "1e1", "", " 1", "99999999999999999999", "one"] {
        let message = "Query value `limit` must be an integer from 1 to 10.".to_string();
        assert_eq!(check(&[("id", "a"), ("limit", "1"), ("limit", value)]), Err(message), "{value}");
    }
    assert!(check(&[("id", "a"), ("live", "yes")]).is_err());
    assert!(check(&[("id", "a"), ("status", "Open")]).is_err());
    assert!(check(&[("id", "abcd")]).is_err());
}

#[test]
fn mistakes_in_a_table_are_found() {
    assert_eq!(faults(Sample::FIELDS), Vec::<String>::new());
    let wrong: &[Field] = fields![
        optional "a b": string, "x";
        optional "a": string(0), "x";
        optional "a": integer(2, 1), " ";
    ];
    let expected = [
        "field `a b` has no identifier for a name",
        "field `a` has no room for a string",
        "field `a` is there twice",
        "field `a` has no summary",
        "field `a` has no integer within its bounds",
    ];
    assert_eq!(faults(wrong), expected);
    static INNER: Record = Record { name: "Inner", fields: fields![required "b": string, "";] };
    const NESTED: &[Field] = fields![required "a": records(&INNER), "x";];
    assert_eq!(faults(NESTED), ["field `a`: field `b` has no summary"]);
    assert_eq!(records(Sample::FIELDS), [&PART]);
    let none = [Field { name: "a", kind: Type::Enum(&[]), required: false, summary: "x" }];
    assert_eq!(faults(&none), ["field `a` has no values"]);
}
