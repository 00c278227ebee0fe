//! The reader against what QEMU 10.0.2 answered to the same bytes.

use super::*;

fn all(text: &str) -> Vec<String> {
    let mut results = Vec::new();
    let mut reader = Reader::new();
    reader.feed(text.as_bytes(), |result| {
        results.push(match result {
            Ok(value) => to_string(&value),
            Err(error) => error.desc.replace("JSON parse error, ", "E: "),
        });
    });
    results
}

#[test]
fn errors_are_worded_and_placed_as_in_qemu() {
    let value = "E: expecting value";
    for (text, want) in [
        ("{\"a\" 1}\n", vec!["E: missing : in object pair"]),
        ("{\"a\":}\n", vec![value]),
        ("[1,2\n{\"e\":1}\n}{\"e\":1}\n", vec!["E: expected separator in list", "{\"e\": 1}"]),
        ("{\"a\":1\n]\n", vec!["E: expected separator in dict"]),
        ("\"abc\n{}\n", vec!["E: stray '\"abc\n'", "{}"]),
        ("{'a':'b\\'\\n'}\n", vec!["{\"a\": \"b'\\n\"}"]),
        ("{\"a\":\"\\ud83d\"}\n", vec!["E: \\ud83d is not a valid Unicode character"]),
        ("{\"a\":\"\\x\"}\n", vec!["E: invalid escape sequence in string"]),
        ("{\"a\":\"a\tb\"}\n", vec!["E: stray '\"a\t'", value]),
        ("{\"a\":1.}\n", vec!["E: stray '1.}'"]),
        ("{\"a\":01}\n", vec!["E: stray '01'", value]),
        ("{\"a\":-}\n", vec!["E: stray '-}'"]),
        ("{\"a\":+1}\n", vec!["E: stray '+'", value]),
        ("{\"a\":tru}\n", vec!["E: invalid keyword 'tru'"]),
        (
            "{\"a\":\"b\"],\"b\":1}\n",
            vec!["E: expected separator in dict", value, "\"b\"", value, "1", value],
        ),
        ("{\"a\":1,}\n", vec![value]),
        ("{1:2}\n", vec!["E: key is not a string in object"]),
        ("{\"a\":1 \"b\":1}\n", vec!["E: expected separator in dict"]),
        ("{\"a\":1,\"a\":1}\n", vec!["E: duplicate key"]),
        ("garbage\n", vec!["E: invalid keyword 'garbage'"]),
    ] {
        assert_eq!(all(text), want, "{text}");
    }
}

#[test]
fn numbers_are_written_as_in_qemu() {
    for (text, want) in [
        ("-0", "0"),
        ("1e2", "100"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775809", "-9.2233720368547758e+18"),
        ("0.1", "0.10000000000000001"),
        ("1e300", "1.0000000000000001e+300"),
        ("2.5", "2.5"),
        ("1e-7", "9.9999999999999995e-08"),
    ] {
        assert_eq!(from_str(text).map(|v| to_string(&v)), Ok(want.to_owned()), "{text}");
    }
}

#[test]
fn strings_are_escaped_as_in_qemu() {
    let value = from_str(r#""\u00e9\t\u007f\ud83d\ude00\\\/\"\u0001""#).expect("valid");
    assert_eq!(to_string(&value), r#""\u00E9\t\u007F\uD83D\uDE00\\/\"\u0001""#);
}

#[test]
fn nesting_is_limited() {
    let deep = "[".repeat(MAX_NESTING + 1);
    assert_eq!(all(&deep), ["JSON nesting depth limit exceeded"]);
    let fits = format!("{}{}", "[".repeat(MAX_NESTING), "]".repeat(MAX_NESTING));
    assert!(from_str(&fits).is_ok());
}

#[test]
fn random_bytes_never_panic_and_valid_text_survives() {
    let mut seed = 0x1234_5678_9abc_def0_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let alphabet = b"{}[],:\"'\\u0123456789abcdeftrulsn-+. \n\x00\xff\xc3\xa9";
    for _ in 0..3000 {
        let len = next() % 40;
        let pick = |n: u64| alphabet[usize::try_from(n).unwrap_or(0) % alphabet.len()];
        let bytes: Vec<u8> = (0..len).map(|_| pick(next() >> 8)).collect();
        let mut reader = Reader::new();
        let check = |result: Result<Value>| {
            if let Ok(value) = result
                && !matches!(value, Value::Float(_))
            {
                let text = to_string(&value);
                let again = from_str(&text).expect("own output is valid");
                assert_eq!(to_string(&again), text);
            }
        };
        reader.feed(&bytes, check);
        reader.finish(check);
    }
}
