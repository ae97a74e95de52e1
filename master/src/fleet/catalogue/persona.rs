//! The schema of a service's persona, and the coercion of values into it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::Service;
use crate::fleet::model::Persona;

/// Most bytes that one service's persona may take as JSON. It travels in one environment variable, and Linux
/// takes no string longer than 128 KiB (`MAX_ARG_STRLEN`).
pub const MAX_PERSONA: usize = 64 * 1024;

/// One key of a persona.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub key: String,
    /// How forms call it.
    pub label: String,
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// What the service shows when the key is not set; none: made from the decky's seed.
    #[serde(default)]
    pub default: Option<Value>,
    /// The values of `enum` and `multi_enum`.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// Never shown again once set.
    #[serde(default)]
    pub secret: bool,
    #[serde(default)]
    pub help: String,
}

/// What a persona value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    String,
    Password,
    Int,
    Bool,
    Enum,
    MultiEnum,
    /// Several lines; `b64:` before base64 of UTF-8 keeps any text whole.
    Textarea,
}

impl FieldType {
    /// The name in catalogue files and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Password => "password",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Enum => "enum",
            Self::MultiEnum => "multi_enum",
            Self::Textarea => "textarea",
        }
    }
}

/// A persona value or key that the schema refuses. Says the rule and never the value, which may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PersonaError {
    /// The key; none when the whole persona is meant.
    pub key: Option<String>,
    pub message: String,
}

impl Service {
    /// The field of a key.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key == key)
    }

    /// A persona from JSON values (the API) or texts (an INI file, where lists are written `a, b`). Null and the
    /// empty text leave the key unset.
    ///
    /// # Errors
    ///
    /// Every unknown key and every value that is not of its key's type.
    pub fn persona<'a>(
        &self,
        values: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) -> Result<Persona, Vec<PersonaError>> {
        let mut persona = Persona::default();
        let mut errors = Vec::new();
        for (key, value) in values {
            if value.is_null() || value.as_str() == Some("") {
                if self.field(key).is_none() {
                    errors.push(self.unknown_key(key));
                }
                continue;
            }
            match self
                .field(key)
                .ok_or_else(|| self.unknown_key(key))
                .and_then(|field| field.coerce(value))
            {
                Ok(value) => drop(persona.0.insert(key.to_owned(), value)),
                Err(error) => errors.push(error),
            }
        }
        let size = serde_json::to_string(&persona).map_or(usize::MAX, |json| json.len());
        if size > MAX_PERSONA {
            let message = format!(
                "the settings of {} take {size} bytes; at most {MAX_PERSONA} fit",
                self.slug
            );
            errors.push(PersonaError { key: None, message });
        }
        if errors.is_empty() {
            Ok(persona)
        } else {
            Err(errors)
        }
    }

    fn unknown_key(&self, key: &str) -> PersonaError {
        let message = if self.fields.is_empty() {
            format!("{} has no settings; remove the line", self.slug)
        } else {
            let keys: Vec<&str> = self.fields.iter().map(|field| field.key.as_str()).collect();
            format!("{} has no such setting; it has: {}", self.slug, keys.join(", "))
        };
        PersonaError {
            key: Some(key.to_owned()),
            message,
        }
    }
}

impl Field {
    /// `value` as this field's type.
    ///
    /// # Errors
    ///
    /// When it is not one.
    pub fn coerce(&self, value: &Value) -> Result<Value, PersonaError> {
        let error = |message: String| PersonaError {
            key: Some(self.key.clone()),
            message,
        };
        match self.kind {
            FieldType::String | FieldType::Password => match value {
                Value::String(_) => Ok(value.clone()),
                Value::Bool(_) | Value::Number(_) => Ok(Value::String(value.to_string())),
                _ => Err(error("must be a text".to_owned())),
            },
            FieldType::Int => match value {
                Value::Number(number) => number.as_i64(),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            }
            .map(Value::from)
            .ok_or_else(|| error("must be a whole number".to_owned())),
            FieldType::Bool => match value {
                Value::Bool(truth) => Some(*truth),
                Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "on" => Some(true),
                    "false" | "0" | "no" | "off" => Some(false),
                    _ => None,
                },
                _ => None,
            }
            .map(Value::from)
            .ok_or_else(|| error("must be true or false (also 1, yes, on, 0, no, off)".to_owned())),
            FieldType::Enum => match value {
                Value::String(text) if self.allowed.contains(text) => Ok(value.clone()),
                _ => Err(error(format!("must be one of: {}", self.allowed.join(", ")))),
            },
            FieldType::MultiEnum => self.coerce_list(value),
            FieldType::Textarea => match value {
                Value::String(text) => textarea(text)
                    .map(Value::String)
                    .map_err(|message| error(message.to_owned())),
                _ => Err(error("must be a text".to_owned())),
            },
        }
    }

    /// A JSON list, the same as text, or a comma list; without repeats, in the order given.
    fn coerce_list(&self, value: &Value) -> Result<Value, PersonaError> {
        let error = || PersonaError {
            key: Some(self.key.clone()),
            message: format!("must be a list, not empty, of: {}", self.allowed.join(", ")),
        };
        let parsed;
        let items = match value {
            Value::Array(items) => items,
            Value::String(text) if text.trim_start().starts_with('[') => {
                parsed = serde_json::from_str::<Vec<Value>>(text).map_err(|_| error())?;
                &parsed
            }
            Value::String(text) => {
                parsed = text.split(',').map(|item| Value::from(item.trim())).collect();
                &parsed
            }
            _ => return Err(error()),
        };
        let mut list: Vec<Value> = Vec::new();
        for item in items {
            if !item
                .as_str()
                .is_some_and(|text| self.allowed.iter().any(|allowed| allowed == text))
            {
                return Err(error());
            }
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
        if list.is_empty() {
            Err(error())
        } else {
            Ok(Value::Array(list))
        }
    }
}

fn textarea(text: &str) -> Result<String, &'static str> {
    let Some(payload) = text.strip_prefix("b64:") else {
        return Ok(text.to_owned());
    };
    let bytes = STANDARD
        .decode(payload.trim())
        .map_err(|_| "has no valid base64 after b64:")?;
    String::from_utf8(bytes).map_err(|_| "holds base64 of something that is not UTF-8")
}
