//! A small line editor: insertion and deletion at the end, history.

/// What became of a byte.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Nothing to see.
    None,
    /// Text for the terminal.
    Echo(String),
    /// The line is complete.
    Line(String),
}

/// Longest line.
const MAX_LINE: usize = 4095;
/// Most lines that are remembered.
const MAX_HISTORY: usize = 64;

#[derive(Clone, Copy, Default, PartialEq)]
enum Escape {
    #[default]
    None,
    Started,
    Bracket,
}

/// The line editor.
#[derive(Default)]
pub struct Editor {
    line: Vec<u8>,
    history: Vec<Vec<u8>>,
    at: usize,
    escape: Escape,
}

impl Editor {
    /// Takes a byte of input.
    pub fn feed(&mut self, byte: u8) -> Edit {
        match self.escape {
            Escape::None => self.plain(byte),
            Escape::Started => {
                self.escape =
                    if matches!(byte, b'[' | b'O') { Escape::Bracket } else { Escape::None };
                Edit::None
            }
            Escape::Bracket => {
                if matches!(byte, b'0'..=b'9' | b';') {
                    return Edit::None;
                }
                self.escape = Escape::None;
                match byte {
                    b'A' => self.recall(self.at.checked_sub(1)),
                    b'B' => self.recall(Some(self.at + 1)),
                    _ => Edit::None,
                }
            }
        }
    }

    fn plain(&mut self, byte: u8) -> Edit {
        match byte {
            b'\r' | b'\n' => self.enter(),
            0x08 | 0x7f => self.delete(1),
            0x15 => self.delete(self.line.len()),
            0x17 => {
                let kept = self.line.iter().rposition(|b| *b != b' ').map_or(0, |end| end + 1);
                let head = self.line.get(..kept).unwrap_or_default();
                let word = head.iter().rposition(|b| *b == b' ').map_or(0, |space| space + 1);
                self.delete(self.line.len() - word)
            }
            0x10 => self.recall(self.at.checked_sub(1)),
            0x0e => self.recall(Some(self.at + 1)),
            0x1b => {
                self.escape = Escape::Started;
                Edit::None
            }
            b' '..=b'~' if self.line.len() < MAX_LINE => {
                self.line.push(byte);
                Edit::Echo(char::from(byte).to_string())
            }
            _ => Edit::None,
        }
    }

    fn enter(&mut self) -> Edit {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && self.history.last() != Some(&line) {
            if self.history.len() >= MAX_HISTORY {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.at = self.history.len();
        Edit::Line(String::from_utf8_lossy(&line).into_owned())
    }

    fn delete(&mut self, count: usize) -> Edit {
        let count = count.min(self.line.len());
        self.line.truncate(self.line.len() - count);
        if count == 0 { Edit::None } else { Edit::Echo("\u{8} \u{8}".repeat(count)) }
    }

    fn recall(&mut self, at: Option<usize>) -> Edit {
        let Some(at) = at.filter(|at| *at <= self.history.len()) else { return Edit::None };
        let mut text = match self.delete(self.line.len()) {
            Edit::Echo(text) => text,
            _ => String::new(),
        };
        self.at = at;
        self.line = self.history.get(at).cloned().unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&self.line));
        Edit::Echo(text)
    }

    /// What has been typed so far.
    pub fn pending(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<String> {
        let mut editor = Editor::default();
        let edits = input.iter().map(|byte| editor.feed(*byte));
        edits.filter_map(|e| if let Edit::Line(line) = e { Some(line) } else { None }).collect()
    }

    #[test]
    fn corrections_and_history() {
        assert_eq!(lines(b"infx\x7fo a\x17b\r"), ["info b"]);
        assert_eq!(lines(b"one\rtwo\r\x1b[A\x1b[A\r"), ["one", "two", "one"]);
        assert_eq!(lines(b"zz\x15ok\r\x1b[B\x1b[5~\r"), ["ok", ""]);
    }
}
