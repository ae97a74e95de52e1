//! The body of a deploy request.

use std::net::Ipv4Addr;

use serde_json::{Map, Value};

use super::generate::Generate;
use super::ini::{IniClass, IniError};
use super::model::{DeckyCount, Minutes};

/// What an operator wants deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployRequest {
    pub description: Description,
    /// It is the whole fleet; otherwise it is added to what is there.
    pub replace: bool,
}

/// How the deckies are described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Description {
    /// A fleet INI.
    Ini(String),
    /// So many, with such services.
    Generate(Generate),
}

/// The keys of a body.
const KEYS: [&str; 3] = ["ini_content", "generate", "replace_fleet"];

impl DeployRequest {
    /// The request that a fleet INI makes.
    #[must_use]
    pub fn of_text(text: impl Into<String>, replace: bool) -> Self {
        Self {
            description: Description::Ini(text.into()),
            replace,
        }
    }

    /// Reads a JSON body: `ini_content` or `generate`, and `replace_fleet`.
    ///
    /// # Errors
    ///
    /// Class [`IniClass::Structural`] for a missing or wrong description and for other keys,
    /// [`IniClass::RequestValidation`] for a `replace_fleet` that is neither true nor false and for numbers and
    /// addresses that are none.
    pub fn from_json(body: &Value) -> Result<Self, Vec<IniError>> {
        let Some(body) = body.as_object() else {
            return Err(vec![structural(
                "body",
                "must be a JSON object with ini_content or generate",
            )]);
        };
        let mut errors = Vec::new();
        for key in body.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            errors.push(structural(
                key,
                "is not a field of this request; it has ini_content or generate, and replace_fleet",
            ));
        }
        let description = match (body.get("ini_content"), body.get("generate")) {
            (Some(_), Some(_)) => {
                let message = "goes without ini_content; describe the deckies in one of the two";
                errors.push(structural("generate", message));
                None
            }
            (None, Some(generate)) => Fields::read(generate, &mut errors).map(Description::Generate),
            (text, None) => {
                let text = text.and_then(Value::as_str);
                if text.is_none() {
                    errors.push(structural(
                        "ini_content",
                        "is missing or not a text; give the whole fleet INI as one text",
                    ));
                }
                text.map(|text| Description::Ini(text.to_owned()))
            }
        };
        let replace = match body.get("replace_fleet") {
            None => Some(false),
            Some(value) => truth(value),
        };
        if replace.is_none() {
            errors.push(invalid("replace_fleet", "must be true or false"));
        }
        match (description, replace) {
            (Some(description), Some(replace)) if errors.is_empty() => Ok(Self { description, replace }),
            _ => Err(errors),
        }
    }
}

fn structural(key: &str, message: impl Into<String>) -> IniError {
    IniError::new(IniClass::Structural, message).key(key)
}

fn invalid(key: &str, message: impl Into<String>) -> IniError {
    IniError::new(IniClass::RequestValidation, message).key(key)
}

/// The object under `generate`. What is taken is gone; what is left over is unknown.
struct Fields<'e> {
    fields: Map<String, Value>,
    errors: &'e mut Vec<IniError>,
}

impl<'e> Fields<'e> {
    /// None when something is wrong, which then is among the errors.
    fn read(value: &Value, errors: &'e mut Vec<IniError>) -> Option<Generate> {
        let Some(fields) = value.as_object() else {
            errors.push(structural("generate", "must be an object with deckies"));
            return None;
        };
        let before = errors.len();
        let mut fields = Self {
            fields: fields.clone(),
            errors,
        };
        let deckies = fields.number("deckies").and_then(|count| {
            let count = u16::try_from(count).unwrap_or(u16::MAX);
            fields.ranged("deckies", DeckyCount::try_from(count))
        });
        if deckies.is_none() && fields.errors.len() == before {
            fields.wrong("deckies", "is missing; say how many, 1 to 500");
        }
        let interval = fields.number("mutate_interval").and_then(|minutes| {
            let minutes = u32::try_from(minutes).unwrap_or(u32::MAX);
            fields.ranged("mutate_interval", Minutes::try_from(minutes))
        });
        let start = fields.text("ip_start").and_then(|text| {
            let address = text.parse::<Ipv4Addr>();
            let address = address.map_err(|_| "must be an IPv4 address such as 192.168.1.20");
            fields.ranged("ip_start", address)
        });
        let generate = Generate {
            deckies: deckies.unwrap_or_default(),
            services: fields.texts("services"),
            archetype: fields.text("archetype"),
            randomize_services: fields.switch("randomize_services"),
            ip_start: start,
            distros: fields.texts("distros"),
            randomize_distros: fields.switch("randomize_distros"),
            mutate_interval: interval.unwrap_or_default(),
        };
        for key in std::mem::take(&mut fields.fields).keys() {
            fields.wrong(key, "is not a field of generate");
        }
        (fields.errors.len() == before).then_some(generate)
    }

    fn wrong(&mut self, key: &str, message: &str) {
        self.errors.push(structural(key, message).section("generate"));
    }

    fn ranged<T, E: std::fmt::Display>(&mut self, key: &str, value: Result<T, E>) -> Option<T> {
        value
            .map_err(|error| {
                self.errors
                    .push(invalid(key, error.to_string()).section("generate"));
            })
            .ok()
    }

    /// Left out and null are the same everywhere here.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.fields.remove(key).filter(|value| !value.is_null())
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        let value = self.take(key)?;
        let number = value.as_u64();
        if number.is_none() {
            self.wrong(key, "must be a whole number");
        }
        number
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let value = self.take(key)?;
        let text = value.as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(key, "must be a text");
        }
        text
    }

    fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let list = value.as_array().and_then(|list| {
            let texts = list.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<String>>>()
        });
        list.unwrap_or_else(|| {
            self.wrong(key, "must be a list of texts");
            Vec::new()
        })
    }

    fn switch(&mut self, key: &str) -> bool {
        let Some(value) = self.take(key) else {
            return false;
        };
        truth(&value).unwrap_or_else(|| {
            self.wrong(key, "must be true or false");
            false
        })
    }
}

/// True and false as JSON has them, or as 1, 0 and the words that persona settings take.
fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => match number.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fleet::ini::status;

    #[test]
    fn a_request_has_a_text_and_says_whether_it_is_the_whole_fleet() {
        let read = |body| DeployRequest::from_json(&body).unwrap();
        assert!(!read(json!({ "ini_content": "[a]" })).replace);
        for yes in [json!(true), json!(1), json!("Yes")] {
            assert!(read(json!({ "ini_content": "[a]", "replace_fleet": yes })).replace);
        }
    }

    #[test]
    fn a_body_without_text_or_with_other_keys_is_400_and_a_wrong_flag_is_422() {
        for (body, expected) in [
            (json!({}), 400),
            (json!([]), 400),
            (json!({ "ini_content": {} }), 400),
            (json!({ "ini_content": "[a]\nservices=ssh", "force": true }), 400),
            (json!({ "ini_content": "[a]", "replace_fleet": "perhaps" }), 422),
            (json!({ "ini_content": "[a]", "replace_fleet": 2 }), 422),
            (json!({ "ini_content": "[a]", "replace_fleet": null }), 422),
        ] {
            assert_eq!(
                status(&DeployRequest::from_json(&body).unwrap_err()),
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn deckies_can_be_asked_for_without_a_text() {
        let read =
            |generate| DeployRequest::from_json(&json!({ "generate": generate })).map(|it| it.description);
        let Ok(Description::Generate(least)) = read(json!({ "deckies": 2, "services": null })) else {
            panic!("refused")
        };
        assert_eq!((least.deckies.get(), least.mutate_interval.get()), (2, 30));
        let all = json!({
            "deckies": 3, "services": ["ssh"], "archetype": "printer", "randomize_services": true,
            "ip_start": "10.0.0.9", "distros": ["alpine"], "randomize_distros": "yes", "mutate_interval": 5,
        });
        let Ok(Description::Generate(all)) = read(all) else {
            panic!("refused")
        };
        assert_eq!(all.services, ["ssh"]);
        assert_eq!(all.distros, ["alpine"]);
        assert_eq!(all.archetype.as_deref(), Some("printer"));
        assert_eq!(all.ip_start, Some(Ipv4Addr::new(10, 0, 0, 9)));
        assert!(all.randomize_services && all.randomize_distros);
        assert_eq!(all.mutate_interval.get(), 5);
        for (wrong, expected) in [
            (json!({}), 400),
            (json!([]), 400),
            (json!({ "deckies": "3" }), 400),
            (json!({ "deckies": 3, "count": 3 }), 400),
            (json!({ "deckies": 3, "services": "ssh" }), 400),
            (json!({ "deckies": 3, "services": [1] }), 400),
            (json!({ "deckies": 3, "randomize_services": "perhaps" }), 400),
            (json!({ "deckies": 0 }), 422),
            (json!({ "deckies": 501 }), 422),
            (json!({ "deckies": 70_000 }), 422),
            (json!({ "deckies": 3, "ip_start": "10.0.0.900" }), 422),
            (json!({ "deckies": 3, "mutate_interval": 0 }), 422),
        ] {
            let errors = read(wrong.clone()).unwrap_err();
            assert_eq!(
                (errors.len(), status(&errors)),
                (1, expected),
                "{wrong}: {errors:?}"
            );
        }
        let both = json!({ "ini_content": "[a]", "generate": { "deckies": 1 } });
        assert_eq!(status(&DeployRequest::from_json(&both).unwrap_err()), 400);
    }
}
