//! Integer expressions of the human monitor: `0x40000000 + 4 * (1 << 3)`.
//!
//! Operators by rising rank: `& | ^`, `+ -`, `* / %`; unary `- + ~`; brackets.
//! Arithmetic wraps at 64 bits. Not here: registers (`$pc`).

struct Text<'t> {
    rest: &'t str,
    depth: u32,
}

/// The value of an expression; `None` when it is none.
pub(crate) fn evaluate(text: &str) -> Option<i64> {
    let mut text = Text { rest: text, depth: 0 };
    let value = text.logic()?;
    text.rest.trim().is_empty().then_some(value)
}

impl Text<'_> {
    fn sign(&mut self, signs: &[char]) -> Option<char> {
        self.rest = self.rest.trim_start();
        let sign = self.rest.chars().next().filter(|c| signs.contains(c))?;
        self.rest = self.rest.get(sign.len_utf8()..)?;
        Some(sign)
    }

    fn logic(&mut self) -> Option<i64> {
        let mut value = self.sum()?;
        while let Some(sign) = self.sign(&['&', '|', '^']) {
            let other = self.sum()?;
            value = match sign {
                '&' => value & other,
                '|' => value | other,
                _ => value ^ other,
            };
        }
        Some(value)
    }

    fn sum(&mut self) -> Option<i64> {
        let mut value = self.product()?;
        while let Some(sign) = self.sign(&['+', '-']) {
            let other = self.product()?;
            value = if sign == '+' { value.wrapping_add(other) } else { value.wrapping_sub(other) };
        }
        Some(value)
    }

    fn product(&mut self) -> Option<i64> {
        let mut value = self.unit()?;
        while let Some(sign) = self.sign(&['*', '/', '%']) {
            let other = self.unit()?;
            value = match sign {
                '*' => value.wrapping_mul(other),
                '/' => value.checked_div(other)?,
                _ => value.checked_rem(other)?,
            };
        }
        Some(value)
    }

    fn unit(&mut self) -> Option<i64> {
        self.depth += 1;
        if self.depth > 64 {
            return None;
        }
        let value = match self.sign(&['+', '-', '~', '(']) {
            Some('+') => self.unit(),
            Some('-') => self.unit().map(i64::wrapping_neg),
            Some('~') => self.unit().map(|value| !value),
            Some(_) => {
                let value = self.logic()?;
                self.sign(&[')']).map(|_| value)
            }
            None => self.number(),
        };
        self.depth -= 1;
        value
    }

    fn number(&mut self) -> Option<i64> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None if word.len() > 1 && word.starts_with('0') => (word, 8),
            None => (word, 10),
        };
        u64::from_str_radix(digits, radix).ok().map(u64::cast_signed)
    }
}

#[cfg(test)]
mod tests {
    use super::evaluate;

    #[test]
    fn operators_have_ranks() {
        assert_eq!(evaluate("1 + 2*3"), Some(7));
        assert_eq!(evaluate("(1+2) * -3 & 0xff"), Some(-9 & 0xff));
        assert_eq!(evaluate("~0"), Some(-1));
        assert_eq!(evaluate("0xffffffffffffffff"), Some(-1));
        assert_eq!(evaluate("010"), Some(8));
        for wrong in
            ["", "1+", "1/0", "(1", "x", "1 2", &"(".repeat(100), "-9223372036854775808/-1"]
        {
            assert_eq!(evaluate(wrong), None, "{wrong}");
        }
    }
}
