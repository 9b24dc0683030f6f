//! Users and groups by number or by name.
//!
//! Contract: names are those of /etc/passwd and /etc/group. A directory service is not asked: that
//! would load its code into the broker, and wait for it. A name that is not there is refused, with
//! the command that tells its number.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// The number of a user.
///
/// # Errors
/// If there is no such user.
pub fn user(text: &str) -> Result<u32, String> {
    number(text, "user", "/etc/passwd", "id -u NAME")
}

/// The number of a group.
///
/// # Errors
/// If there is no such group.
pub fn group(text: &str) -> Result<u32, String> {
    number(text, "group", "/etc/group", "getent group NAME")
}

/// A list of users in a file.
pub fn users<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    list(toml::Value::deserialize(from)?, user).map_err(D::Error::custom)
}

/// A list of groups in a file.
pub fn groups<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    list(toml::Value::deserialize(from)?, group).map_err(D::Error::custom)
}

fn list(value: toml::Value, one: fn(&str) -> Result<u32, String>) -> Result<Vec<u32>, String> {
    let toml::Value::Array(items) = value else {
        return Err(format!("expected a list, such as [1000, \"alice\"], got {value}"));
    };
    let item = |item: toml::Value| match item {
        toml::Value::Integer(n) => one(&n.to_string()),
        toml::Value::String(text) => one(&text),
        other => Err(format!("expected a number or a name, got {other}")),
    };
    items.into_iter().map(item).collect()
}

/// The number of a name in a file of `name:password:number:…`.
fn number(text: &str, what: &str, file: &str, command: &str) -> Result<u32, String> {
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return text.parse().map_err(|_| format!("no number of a {what}: {text:?}"));
    }
    let content = std::fs::read_to_string(file).unwrap_or_default();
    find(&content, text).ok_or_else(|| {
        let command = command.replace("NAME", text);
        format!("no {what} {text:?} in {file}; give the number (`{command}` may tell it)")
    })
}

fn find(content: &str, name: &str) -> Option<u32> {
    content.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_number() {
        assert_eq!((user("0"), user("root"), group("root")), (Ok(0), Ok(0), Ok(0)));
        assert_eq!(find("a:x:7:8::/:/bin/sh\nab:x:9:1", "ab"), Some(9));
        assert_eq!(find("a:x:7\nb:x", "b"), None);
        for (bad, says) in [
            ("nosuchuser", "no user \"nosuchuser\" in /etc/passwd; give the number (`id -u"),
            ("-1", "no number of a user: \"-1\""),
            ("4294967296", "no number"),
            ("", "no user \"\""),
        ] {
            let error = user(bad).unwrap_err();
            assert!(error.starts_with(says), "{bad}: {error}");
        }
    }

    #[test]
    fn a_list_has_numbers_and_names() {
        let parse = |text: &str| {
            let table: toml::Table = format!("list = {text}").parse().unwrap();
            list(table["list"].clone(), user)
        };
        assert_eq!(parse("[1000, 'root', '7']"), Ok(vec![1000, 0, 7]));
        for bad in ["'root'", "1000", "[true]", "[[1]]", "[-1]", "['nosuchuser']"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
