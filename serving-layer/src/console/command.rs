//! Command lines that a person copies: whatever stands in an id, the shell gets it as one word, and the terminal shows what it is.

use std::fmt::Write;

use serde_json::json;

/// A program and its arguments, as they are started and as they are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    /// What is added to the environment.
    pub(super) environment: Vec<(String, String)>,
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

impl CommandLine {
    /// As a person types it.
    pub(super) fn text(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
        let words = std::iter::once(&self.program).chain(&self.arguments).map(|word| quoted(word));
        environment.chain(words).collect::<Vec<_>>().join(" ")
    }
}

/// How the serving layer is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Callers {
    /// Host and port of its gRPC server.
    pub(super) grpc_address: String,
    /// Whether it speaks TLS.
    pub(super) has_tls: bool,
    /// Whether it asks for a token.
    pub(super) has_tokens: bool,
}

impl Callers {
    /// `grpcurl` with the question about one user that the page asks.
    pub(super) fn of_user(&self, user_id: &str) -> String {
        let question =
            json!({ "user_id": user_id, "granularity": "GRANULARITY_BUCKET", "consistency": "CONSISTENCY_BEST_EFFORT", "explain": true });
        self.grpcurl("merganser.v1.UserStatsService/GetUserStats", &question)
    }

    /// The same for rows of a view. A part of the key that is null has no value.
    pub(super) fn of_rows(&self, view: &str, parts: &[Option<String>], by_bucket: bool) -> String {
        let parts: Vec<_> =
            parts.iter().map(|part| part.as_ref().map_or_else(|| json!({}), |text| json!({ "string_value": text }))).collect();
        let granularity = if by_bucket { "GRANULARITY_BUCKET" } else { "GRANULARITY_TOTAL" };
        self.grpcurl("merganser.v1.ViewService/GetViewRows", &json!({ "view": view, "key_parts": parts, "granularity": granularity }))
    }

    fn grpcurl(&self, method: &str, question: &serde_json::Value) -> String {
        let transport = if self.has_tls { "" } else { "-plaintext " };
        let token = if self.has_tokens { "-expand-headers -H 'authorization: Bearer ${MERGANSER_TOKEN}' " } else { "" };
        format!("grpcurl {transport}{token}-d {} {} {method}", quoted(&visible_json(question)), self.grpc_address)
    }
}

/// JSON in which every character that a terminal does not show, or that turns the text around it, is written by its number.
fn visible_json(value: &serde_json::Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if is_hidden(c) {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| write!(text, "\\u{unit:04x}").expect("a string takes it"));
        } else {
            text.push(c);
        }
    }
    text
}

/// One word of a POSIX shell. Characters that a terminal does not show are written by their numbers, which bash and zsh read back.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b':' | b'=' | b',' | b'@' | b'+' | b'%');
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    if !word.chars().any(is_hidden) {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut text = "$'".to_owned();
    for c in word.chars() {
        match c {
            '\'' | '\\' => text.extend(['\\', c]),
            c if is_hidden(c) => {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().for_each(|byte| write!(text, "\\x{byte:02x}").expect("a string takes it"));
            }
            c => text.push(c),
        }
    }
    text + "'"
}

/// Controls, and what has no width of its own or sets the direction of text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ODD: [&str; 9] =
        ["a b", "/?#%", "it's \"so\" $HOME `id`", "🦆 münchen", "<script>", "-x", "line\nbreak\t", "a\u{202e}b\u{200d}c", "\\ ' \u{1b}["];

    /// Proves that a shell gives back exactly the words that were quoted, odd ones too, and that no hidden character is in the text.
    #[test]
    fn a_shell_reads_it_back() {
        for word in ODD {
            let text = quoted(word);
            assert!(!text.chars().any(is_hidden), "{text:?}");
            let printed = Command::new("bash").args(["-c", &format!("printf %s {text}")]).output().unwrap().stdout;
            assert_eq!(String::from_utf8(printed).unwrap(), word);
        }
    }

    /// Proves that the question in a grpcurl line is the JSON of the question, whatever the id.
    #[test]
    fn grpcurl() {
        let callers = Callers { grpc_address: "127.0.0.1:7402".to_owned(), ..Callers::default() };
        assert_eq!(
            callers.of_user("bob"),
            r#"grpcurl -plaintext -d '{"consistency":"CONSISTENCY_BEST_EFFORT","explain":true,"granularity":"GRANULARITY_BUCKET","user_id":"bob"}' 127.0.0.1:7402 merganser.v1.UserStatsService/GetUserStats"#
        );
        for user in ODD {
            let line = callers.of_user(user);
            let question =
                Command::new("bash").args(["-c", &format!("grpcurl() {{ printf %s \"$3\"; }}; {line}")]).output().unwrap().stdout;
            let question: serde_json::Value = serde_json::from_slice(&question).unwrap();
            assert_eq!(question["user_id"], user);
            assert!(!line.chars().any(is_hidden), "{line:?}");
        }
        let locked = Callers { has_tls: true, has_tokens: true, ..callers };
        assert!(
            locked
                .of_rows("by_item", &[None, Some("x".into())], true)
                .starts_with("grpcurl -expand-headers -H 'authorization: Bearer ${MERGANSER_TOKEN}' -d ")
        );
    }

    /// Proves that what is started is what is shown.
    #[test]
    fn text() {
        let line = CommandLine {
            environment: vec![("MERGANSER_STORE__URL".to_owned(), "/my data".to_owned())],
            program: "batch-layer".to_owned(),
            arguments: ["rollback", "3"].map(str::to_owned).into(),
        };
        assert_eq!(line.text(), "MERGANSER_STORE__URL='/my data' batch-layer rollback 3");
    }
}
