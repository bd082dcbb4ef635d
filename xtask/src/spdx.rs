//! SPDX licence expressions: is one satisfied by the licences we accept?
//!
//! SPDX 2.3 Annex D: WITH binds tightest, then AND, then OR; parentheses group. The old `MIT/Apache-2.0` of early
//! manifests means OR.

/// Whether a choice of licences within `expression` uses only accepted ones. `accepted` is asked for single licences,
/// as `MIT` or `Apache-2.0 WITH LLVM-exception`. An expression that does not parse is an error with the reason.
pub fn satisfied(expression: &str, accepted: &dyn Fn(&str) -> bool) -> Result<bool, String> {
    let mut parser = Parser { tokens: tokens(expression), at: 0, accepted };
    let result = parser.any()?;
    match parser.peek() {
        None => Ok(result),
        Some(token) => Err(format!("`{token}` is not expected in `{expression}`")),
    }
}

fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

struct Parser<'a> {
    tokens: Vec<String>,
    at: usize,
    accepted: &'a dyn Fn(&str) -> bool,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    fn take(&mut self, wanted: &str) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn any(&mut self) -> Result<bool, String> {
        let mut result = self.all()?;
        while self.take("OR") {
            // Both sides are parsed: a broken right side is an error even when the left is accepted.
            let right = self.all()?;
            result |= right;
        }
        Ok(result)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut result = self.one()?;
        while self.take("AND") {
            let right = self.one()?;
            result &= right;
        }
        Ok(result)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.take("(") {
            let result = self.any()?;
            return if self.take(")") { Ok(result) } else { Err("a parenthesis is not closed".into()) };
        }
        let mut licence = self.identifier()?;
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.identifier()?);
        }
        Ok((self.accepted)(&licence))
    }

    fn identifier(&mut self) -> Result<String, String> {
        match self.peek() {
            None => Err("a licence is missing at the end".into()),
            Some(word @ ("(" | ")" | "AND" | "OR" | "WITH")) => {
                Err(format!("a licence is missing before `{word}`"))
            }
            Some(word) => {
                let word = word.to_owned();
                self.at += 1;
                Ok(word)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(accepted: &[&str], expression: &str) -> Result<bool, String> {
        satisfied(expression, &|licence| accepted.contains(&licence))
    }

    #[test]
    fn one_accepted_side_of_an_or_is_enough_and_every_side_of_an_and_is_needed() {
        assert_eq!(with(&["MIT"], "MIT OR GPL-3.0-only"), Ok(true));
        assert_eq!(with(&["MIT"], "GPL-3.0-only OR MIT"), Ok(true));
        assert_eq!(with(&["MIT"], "MIT AND GPL-3.0-only"), Ok(false));
        assert_eq!(with(&["MIT", "ISC"], "ISC AND MIT"), Ok(true));
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert_eq!(with(&["MIT"], "MIT OR ISC AND GPL-3.0-only"), Ok(true));
        assert_eq!(with(&["MIT"], "(MIT OR ISC) AND GPL-3.0-only"), Ok(false));
    }

    #[test]
    fn an_exception_is_accepted_only_as_a_whole() {
        let expression = "Apache-2.0 WITH LLVM-exception";
        assert_eq!(with(&["Apache-2.0"], expression), Ok(false));
        assert_eq!(with(&["Apache-2.0 WITH LLVM-exception"], expression), Ok(true));
        assert_eq!(with(&["Apache-2.0"], "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"), Ok(true));
    }

    #[test]
    fn the_old_slash_means_or() {
        assert_eq!(with(&["MIT"], "MIT/Apache-2.0"), Ok(true));
        assert_eq!(with(&["MIT"], "Apache-2.0 / MIT"), Ok(true));
        assert_eq!(with(&["ISC"], "MIT/Apache-2.0"), Ok(false));
    }

    #[test]
    fn the_expression_of_aws_lc_sys_is_read() {
        let expression = "ISC AND (Apache-2.0 OR ISC) AND Apache-2.0 AND MIT AND BSD-3-Clause AND \
                          (Apache-2.0 OR ISC OR MIT) AND (Apache-2.0 OR ISC OR MIT-0)";
        assert_eq!(with(&["ISC", "Apache-2.0", "MIT", "BSD-3-Clause"], expression), Ok(true));
        assert_eq!(with(&["ISC", "Apache-2.0", "MIT"], expression), Ok(false));
    }

    #[test]
    fn a_broken_expression_is_an_error_and_not_an_acceptance() {
        for broken in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH", "MIT OR (ISC"] {
            assert!(with(&["MIT", "ISC"], broken).is_err(), "{broken}");
        }
    }
}
