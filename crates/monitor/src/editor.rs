//! A line editor for a terminal: cursor movement, history, completion.
//!
//! It takes bytes and says what to show; it knows no commands. Keys are those of
//! readline: arrows, Home, End, Delete, Ctrl-A B D E F H K N P U W, Tab.

/// What became of a byte.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Nothing to see.
    None,
    /// Text for the terminal.
    Echo(String),
    /// The line is complete.
    Line(String),
    /// What could follow this text is asked for.
    Complete(String),
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
    Bracket(u16),
}

/// The line editor.
#[derive(Default)]
pub struct Editor {
    line: Vec<u8>,
    cursor: usize,
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
                    if matches!(byte, b'[' | b'O') { Escape::Bracket(0) } else { Escape::None };
                Edit::None
            }
            Escape::Bracket(number) => self.bracket(number, byte),
        }
    }

    fn bracket(&mut self, number: u16, byte: u8) -> Edit {
        if byte.is_ascii_digit() {
            let digit = u16::from(byte - b'0');
            self.escape = Escape::Bracket(number.wrapping_mul(10).wrapping_add(digit));
            return Edit::None;
        }
        if byte == b';' {
            self.escape = Escape::Bracket(0);
            return Edit::None;
        }
        self.escape = Escape::None;
        match (byte, number) {
            (b'A', _) => self.recall(self.at.checked_sub(1)),
            (b'B', _) => self.recall(Some(self.at + 1)),
            (b'C', _) => self.go(self.cursor + 1),
            (b'D', _) => self.go(self.cursor.saturating_sub(1)),
            (b'H', _) | (b'~', 1 | 7) => self.go(0),
            (b'F', _) | (b'~', 4 | 8) => self.go(self.line.len()),
            (b'~', 3) => self.replace(self.cursor, self.cursor + 1, &[]),
            _ => Edit::None,
        }
    }

    fn plain(&mut self, byte: u8) -> Edit {
        let (cursor, end) = (self.cursor, self.line.len());
        match byte {
            b'\r' | b'\n' => self.enter(),
            b'\t' => Edit::Complete(self.text(0, cursor)),
            0x01 => self.go(0),
            0x02 => self.go(cursor.saturating_sub(1)),
            0x04 => self.replace(cursor, cursor + 1, &[]),
            0x05 => self.go(end),
            0x06 => self.go(cursor + 1),
            0x08 | 0x7f => self.replace(cursor.saturating_sub(1), cursor, &[]),
            0x0b => self.replace(cursor, end, &[]),
            0x0e => self.recall(Some(self.at + 1)),
            0x10 => self.recall(self.at.checked_sub(1)),
            0x15 => self.replace(0, end, &[]),
            0x17 => self.replace(self.word_start(), cursor, &[]),
            0x1b => {
                self.escape = Escape::Started;
                Edit::None
            }
            b' '..=b'~' if end < MAX_LINE => self.replace(cursor, cursor, &[byte]),
            _ => Edit::None,
        }
    }

    /// Puts text in at the cursor.
    pub fn insert(&mut self, text: &str) -> Edit {
        let fits = text.len() <= MAX_LINE.saturating_sub(self.line.len());
        if fits { self.replace(self.cursor, self.cursor, text.as_bytes()) } else { Edit::None }
    }

    /// Where the word begins that ends at the cursor.
    fn word_start(&self) -> usize {
        let head = self.line.get(..self.cursor).unwrap_or_default();
        let kept = head.iter().rposition(|b| *b != b' ').map_or(0, |at| at + 1);
        let head = head.get(..kept).unwrap_or_default();
        head.iter().rposition(|b| *b == b' ').map_or(0, |at| at + 1)
    }

    fn go(&mut self, to: usize) -> Edit {
        let to = to.min(self.line.len());
        let from = std::mem::replace(&mut self.cursor, to);
        if to == from {
            Edit::None
        } else if to < from {
            Edit::Echo("\u{8}".repeat(from - to))
        } else {
            Edit::Echo(self.text(from, to))
        }
    }

    /// Puts `new` in place of the bytes from `start` to `end`; the cursor goes behind it.
    fn replace(&mut self, start: usize, end: usize, new: &[u8]) -> Edit {
        let end = end.min(self.line.len());
        if start >= end && new.is_empty() {
            return Edit::None;
        }
        let back = self.cursor.saturating_sub(start);
        let ahead = start.saturating_sub(self.cursor);
        let mut echo = "\u{8}".repeat(back);
        echo.push_str(&self.text(self.cursor, self.cursor + ahead));
        self.line.splice(start..end, new.iter().copied());
        self.cursor = start + new.len();
        echo.push_str(&self.text(start, self.line.len()));
        // Blanks over what is gone, then back to the cursor.
        let gone = (end - start).saturating_sub(new.len());
        echo.push_str(&" ".repeat(gone));
        echo.push_str(&"\u{8}".repeat(gone + self.line.len() - self.cursor));
        Edit::Echo(echo)
    }

    fn text(&self, from: usize, to: usize) -> String {
        let bytes = self.line.get(from..to.min(self.line.len())).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn enter(&mut self) -> Edit {
        let line = std::mem::take(&mut self.line);
        self.cursor = 0;
        if !line.is_empty() && self.history.last() != Some(&line) {
            if self.history.len() >= MAX_HISTORY {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.at = self.history.len();
        Edit::Line(String::from_utf8_lossy(&line).into_owned())
    }

    fn recall(&mut self, at: Option<usize>) -> Edit {
        let Some(at) = at.filter(|at| *at <= self.history.len()) else { return Edit::None };
        self.at = at;
        let line = self.history.get(at).cloned().unwrap_or_default();
        self.replace(0, self.line.len(), &line)
    }

    /// What has been typed so far.
    pub fn pending(&self) -> String {
        self.text(0, self.line.len())
    }

    /// The lines that were entered, oldest first.
    pub fn history(&self) -> impl Iterator<Item = String> {
        self.history.iter().map(|line| String::from_utf8_lossy(line).into_owned())
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

    /// What a terminal shows after the echoes of some input.
    fn shown(input: &[u8]) -> String {
        let mut editor = Editor::default();
        let (mut screen, mut at): (Vec<char>, usize) = (Vec::new(), 0);
        for byte in input {
            let Edit::Echo(text) = editor.feed(*byte) else { continue };
            for c in text.chars() {
                if c == '\u{8}' {
                    at -= 1;
                    continue;
                }
                screen.resize(screen.len().max(at + 1), ' ');
                screen[at] = c;
                at += 1;
            }
        }
        screen.insert(at, '|');
        screen.into_iter().collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn corrections_and_history() {
        assert_eq!(lines(b"infx\x7fo a\x17b\r"), ["info b"]);
        assert_eq!(lines(b"one\rtwo\r\x1b[A\x1b[A\r"), ["one", "two", "one"]);
        assert_eq!(lines(b"zz\x15ok\r\x1b[B\x1b[5~\r"), ["ok", ""]);
        assert_eq!(lines(b"bc\x01a\x05d\x02\x02X\x04\x0b\r"), ["abX"]);
        assert_eq!(lines(b"ac\x1b[Db\x1b[H\x1b[3~\x1b[F!\r"), ["bc!"]);
    }

    #[test]
    fn the_terminal_shows_the_line() {
        assert_eq!(shown(b"abcd\x02\x02\x7fX"), "aX|cd");
        assert_eq!(shown(b"abcd\x01\x0b"), "|");
        assert_eq!(shown(b"one two\x17"), "one |");
    }

    #[test]
    fn tab_asks_and_insert_answers() {
        let mut editor = Editor::default();
        for byte in b"info st" {
            editor.feed(*byte);
        }
        assert_eq!(editor.feed(b'\t'), Edit::Complete("info st".into()));
        editor.insert("atus ");
        assert_eq!(editor.pending(), "info status ");
    }
}
