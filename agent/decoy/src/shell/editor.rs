//! The line a visitor types at a terminal, with the few keys that edit it.

use super::COMMAND_CAP;

/// Collects typed bytes into lines of at most [`COMMAND_CAP`] bytes.
#[derive(Debug, Default)]
pub struct Editor {
    line: Vec<u8>,
    /// The last byte was a CR: the LF or NUL that follows belongs to it (RFC 854, "NVT").
    after_return: bool,
}

/// What a typed byte completed.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// A line.
    Line(String),
    /// Ctrl-D on an empty line.
    End,
}

impl Editor {
    /// Takes one typed byte; what a terminal would echo is added to `shown`.
    pub fn take(&mut self, byte: u8, shown: &mut Vec<u8>) -> Option<Entered> {
        let follows_return = std::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' | 0 if follows_return => {}
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                return Some(Entered::Line(String::from_utf8_lossy(&line).into_owned()));
            }
            // Ctrl-D, Ctrl-C, Ctrl-U.
            4 if self.line.is_empty() => return Some(Entered::End),
            3 => {
                self.line.clear();
                shown.extend_from_slice(b"^C\r\n");
                return Some(Entered::Line(String::new()));
            }
            21 => {
                shown.extend_from_slice(&b"\x08 \x08".repeat(self.line.len()));
                self.line.clear();
            }
            8 | 127 if self.line.pop().is_some() => shown.extend_from_slice(b"\x08 \x08"),
            0..32 | 127 => {}
            _ if self.line.len() < COMMAND_CAP => {
                self.line.push(byte);
                shown.push(byte);
            }
            _ => {}
        }
        None
    }

    /// What has been typed of a line without an end.
    pub fn finish(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_and_every_line_end_counts_once() {
        let (mut editor, mut shown) = (Editor::default(), Vec::new());
        let typed = b"lx\x7fs\r\nid\r\0\x7fpwd\n\x04";
        let entered: Vec<Entered> = typed
            .iter()
            .filter_map(|byte| editor.take(*byte, &mut shown))
            .collect();
        let lines = ["ls", "id", "pwd"].map(|line| Entered::Line(line.to_owned()));
        assert_eq!(
            entered,
            lines.into_iter().chain([Entered::End]).collect::<Vec<_>>()
        );
        assert_eq!(shown, b"lx\x08 \x08sidpwd");
    }
}
