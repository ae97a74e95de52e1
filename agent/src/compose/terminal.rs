//! What is told while it happens, on standard error.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use decnet_docker::{Progress, ProgressSink};

/// Standard error: a line for everything that is done, and below these, on a terminal, one for each layer that is
/// under way.
#[derive(Debug)]
pub(super) struct Terminal {
    interactive: bool,
    layers: Mutex<Layers>,
}

#[derive(Debug, Default)]
struct Layers {
    /// Image, layer, and how far it is.
    lines: Vec<(String, String, String)>,
    drawn: usize,
}

/// Lines of layers that are shown at once.
const SHOWN: usize = 12;

impl Terminal {
    pub(super) fn new() -> Self {
        Self {
            interactive: std::io::stderr().is_terminal(),
            layers: Mutex::default(),
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = layers.erased();
        let _ = writeln!(out, "{text}");
        layers.draw(&mut out);
        say(&out);
    }

    /// Nothing is under way any more.
    pub(super) fn finish(&self) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let out = layers.erased();
        layers.lines.clear();
        say(&out);
    }

    fn layer(&self, image: String, layer: String, text: String) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = layers.erased();
        let known = layers
            .lines
            .iter_mut()
            .find(|(of, name, _)| *of == image && *name == layer);
        match known {
            Some((_, _, known)) => *known = text,
            None => layers.lines.push((image, layer, text)),
        }
        layers.draw(&mut out);
        say(&out);
    }
}

impl ProgressSink for Terminal {
    fn tell(&self, progress: Progress) {
        match progress {
            Progress::Build { image, line } => self.line(&format!("{image}: {}", line.trim_end())),
            Progress::Layer {
                image,
                layer: Some(layer),
                state,
                done,
                total,
            } if self.interactive => {
                let text = match (done, total) {
                    (Some(done), Some(total)) if total > 0 => {
                        format!("{state} {} of {}", size(done), size(total))
                    }
                    (Some(done), _) => format!("{state} {}", size(done)),
                    _ => state,
                };
                self.layer(image, layer, text);
            }
            // Without a terminal, what is only a count of bytes would fill logs.
            Progress::Layer { done: Some(_), .. } => {}
            Progress::Layer {
                image, layer, state, ..
            } => match layer {
                Some(layer) => self.line(&format!("{image}: {layer}: {state}")),
                None => self.line(&format!("{image}: {state}")),
            },
        }
    }
}

impl Layers {
    /// What takes the drawn lines away.
    fn erased(&mut self) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        match drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn draw(&mut self, out: &mut String) {
        let first = self.lines.len().saturating_sub(SHOWN);
        for (image, layer, text) in &self.lines[first..] {
            let line: String = format!("  {image} {layer}: {text}").chars().take(79).collect();
            let _ = writeln!(out, "{line}");
            self.drawn += 1;
        }
    }
}

/// Bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

/// Nobody can be told that standard error does not work.
fn say(text: &str) {
    if !text.is_empty() {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_layers_are_drawn_below_and_taken_away_again() {
        let mut layers = Layers::default();
        layers
            .lines
            .push(("a:1".to_owned(), "0123".to_owned(), "Waiting".to_owned()));
        let mut out = layers.erased();
        layers.draw(&mut out);
        assert_eq!(out, "  a:1 0123: Waiting\n");
        assert_eq!(layers.erased(), "\x1b[1A\x1b[J");
        assert_eq!(layers.erased(), "");
    }

    #[test]
    fn sizes_read_as_people_say_them() {
        assert_eq!(
            [size(999), size(1_000), size(12_345_678)],
            ["999 B", "1 kB", "12.3 MB"]
        );
    }
}
