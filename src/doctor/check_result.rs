/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// Name of the check, such as `login` or `spf`.
    pub check: &'static str,
    /// Checked upstream, domain or file; empty if there is only one.
    pub subject: String,
    pub status: CheckStatus,
    /// Observed facts, without secrets.
    pub message: String,
    /// Suggested fix; empty if none is needed.
    pub remedy: String,
}

/// Status of a check, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// In order.
    Ok,
    /// Not determined.
    Unknown,
    /// Works, but not permanently or not as well as possible.
    Warn,
    /// Does not work.
    Fail,
}

impl CheckStatus {
    /// Name of the status in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl CheckResult {
    /// Result of a passed check.
    pub fn ok(check: &'static str, subject: impl Into<String>, what: impl Into<String>) -> Self {
        let (subject, message) = (subject.into(), what.into());
        Self { check, subject, status: CheckStatus::Ok, message, remedy: String::new() }
    }

    /// Result of a check that did not pass.
    pub fn problem(
        status: CheckStatus,
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, message, remedy) = (subject.into(), what.into(), remedy.into());
        Self { check, subject, status, message, remedy }
    }

    /// Result from an error text: the part after the last semicolon is the remedy, `otherwise` if there is none.
    pub fn from_error(
        status: CheckStatus,
        check: &'static str,
        subject: impl Into<String>,
        error: &dyn std::fmt::Display,
        otherwise: &str,
    ) -> Self {
        let text = error.to_string();
        let (what, remedy) = text.rsplit_once("; ").unwrap_or((&text, otherwise));
        Self::problem(status, check, subject, what, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_remedy_from_error_text() {
        let of = |text: &str| {
            let finding = CheckResult::from_error(CheckStatus::Fail, "login", "up", &text, "look there");
            (finding.message, finding.remedy)
        };
        assert_eq!(of("it broke; again; mend it"), ("it broke; again".into(), "mend it".into()));
        assert_eq!(of("it broke"), ("it broke".into(), "look there".into()));
    }
}
