//! The `[env]` table: what each form becomes, and what is said of bad ones.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::GuestVariables;
use super::test_support::{load, problem, vars};

fn resolved(text: &str, env: &[(&str, &str)]) -> GuestVariables {
    let loaded = load(text, &[]);
    loaded.settings.env.resolve(&vars(env)).unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    pairs.collect()
}

#[test]
fn each_form_goes_where_it_belongs() {
    let text = r#"
        [env]
        LITERAL = "v"
        PATHS = "${HOME}/bin:$NOPE"
        TABLE = { value = "$USER" }
        NOT_ONLY = { value = "x", session_only = false }
        TOKEN = { forward = true }
        EMPTY = { forward = true }
        ABSENT = { forward = true }
        MINE = { value = "$$5 $USER", session_only = true }
    "#;
    let env = [
        ("HOME", "/h"),
        ("USER", "ann"),
        ("TOKEN", "t$x"),
        ("EMPTY", ""),
    ];
    let found = resolved(text, &env);
    assert_eq!(
        found.image,
        map(&[
            ("LITERAL", "v"),
            ("NOT_ONLY", "x"),
            ("PATHS", "/h/bin:"),
            ("TABLE", "ann")
        ])
    );
    assert_eq!(
        found.session,
        map(&[("EMPTY", ""), ("MINE", "$5 ann"), ("TOKEN", "t$x")])
    );
    assert!(!format!("{found:?} {:?}", load(text, &[]).settings.env).contains("t$x"));
}

#[test]
fn entries_that_set_nothing_are_named() {
    let text = "[env]\nA = {}\nB = \"\"\nC = { value = \"\" }\nD = { session_only = true }\n\
                E = { forward = true, value = \"x\" }\nF = { valeu = \"x\" }\n";
    let loaded = load(text, &[]);
    let said: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    for (line, start) in [
        (2, "env.A is left out, because it has neither"),
        (3, "env.B is left out, because its value is empty"),
        (4, "env.C is left out, because its value is empty"),
        (5, "env.D is left out, because it has neither"),
        (6, "env.E.value has no effect"),
        (
            7,
            "unknown key env.F.valeu is ignored; did you mean env.F.value?",
        ),
        (7, "env.F is left out"),
    ] {
        let start = format!(":{line}: {start}");
        assert!(
            said.iter().any(|said| said.contains(&start)),
            "{start}: {said:#?}"
        );
    }
    assert_eq!(said.len(), 7);
    assert!(
        loaded
            .settings
            .env
            .resolve(&vars(&[]))
            .unwrap()
            .image
            .is_empty()
    );
}

#[test]
fn bad_entries_are_errors_without_their_values() {
    for (line, expected) in [
        (
            "A = 4711",
            "env.A is of type integer, but must be a text or a table",
        ),
        ("A = [\"s3cret\"]", "env.A is of type array"),
        (
            "A = { value = 4711 }",
            "env.A.value is of type integer, but must be a text",
        ),
        (
            "A = { forward = \"s3cret\" }",
            "env.A.forward is of type string, but must be true",
        ),
        ("A = \"s3cret${\"", "env.A has a ${ without its }"),
        ("A = \"s3cret\\u0000\"", "env.A has a NUL character"),
        (
            "\"1A\" = \"s3cret\"",
            "env.1A is not the name of a variable",
        ),
        (
            "\"A-B\" = \"s3cret\"",
            "env.A-B is not the name of a variable",
        ),
        ("\"\" = \"s3cret\"", "env. is not the name of a variable"),
    ] {
        let error = problem(&format!("[env]\n{line}\n"), &[]);
        assert!(error.contains(&format!(":2: {expected}")), "{error}");
        assert!(
            !error.contains("s3cret") && !error.contains("4711"),
            "{error}"
        );
    }
}

#[test]
#[cfg(unix)]
fn a_value_that_is_not_text_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let loaded = load("[env]\nA = { forward = true }\n", &[]);
    let env = |_: &str| Some(OsString::from_vec(vec![0xff]));
    let error = loaded.settings.env.resolve(&env).unwrap_err().to_string();
    assert!(
        error.ends_with(":2: env.A takes the value of A, which is not valid UTF-8"),
        "{error}"
    );
}

#[test]
fn listings_mask_literals_and_show_references() {
    let loaded = load(
        "[env]\nA = \"s3cret\"\nB = \"$B\"\nC = { value = \"s3cret\", session_only = true }\n\
         D = { forward = true }\n",
        &[],
    );
    let value = |key| loaded.origins.get(key).unwrap().value.clone();
    assert_eq!(value("env.A"), "\"***\"");
    assert_eq!(value("env.B"), "\"$B\"");
    assert_eq!(value("env.C"), "{ session_only = true, value = \"***\" }");
    assert_eq!(value("env.D"), "{ forward = true }");
}
