//! The body of a deploy request.

use serde_json::Value;

use super::ini::{IniClass, IniError};

/// What an operator posts: a fleet INI, and whether it is the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployRequest {
    pub ini_content: String,
    pub replace_fleet: bool,
}

impl DeployRequest {
    /// Reads a JSON body.
    ///
    /// # Errors
    ///
    /// Class [`IniClass::Structural`] for a missing or wrong `ini_content` and for other keys,
    /// [`IniClass::RequestValidation`] for a `replace_fleet` that is neither true nor false.
    pub fn from_json(body: &Value) -> Result<Self, Vec<IniError>> {
        let structural = |key: &str, message: &str| IniError::new(IniClass::Structural, message).key(key);
        let Some(body) = body.as_object() else {
            return Err(vec![structural("body", "must be a JSON object with ini_content")]);
        };
        let mut errors = Vec::new();
        for key in body
            .keys()
            .filter(|key| !matches!(key.as_str(), "ini_content" | "replace_fleet"))
        {
            errors.push(structural(
                key,
                "is not a field of this request; it has ini_content and replace_fleet",
            ));
        }
        let ini_content = body.get("ini_content").and_then(Value::as_str);
        if ini_content.is_none() {
            errors.push(structural(
                "ini_content",
                "is missing or not a text; give the whole fleet INI as one text",
            ));
        }
        let replace_fleet = match body.get("replace_fleet") {
            None => Some(false),
            Some(value) => truth(value),
        };
        if replace_fleet.is_none() {
            let message = "must be true or false";
            errors.push(IniError::new(IniClass::RequestValidation, message).key("replace_fleet"));
        }
        match (ini_content, replace_fleet) {
            (Some(ini), Some(replace_fleet)) if errors.is_empty() => Ok(Self {
                ini_content: ini.to_owned(),
                replace_fleet,
            }),
            _ => Err(errors),
        }
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
        assert!(!read(json!({ "ini_content": "[a]" })).replace_fleet);
        for yes in [json!(true), json!(1), json!("Yes")] {
            assert!(read(json!({ "ini_content": "[a]", "replace_fleet": yes })).replace_fleet);
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
}
