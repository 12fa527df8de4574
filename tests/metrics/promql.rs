//! Which metrics and labels a PromQL expression names.

use std::collections::BTreeSet;

/// A metric in an expression, with the labels that it has to have.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    pub name: String,
    /// With values if these are literal.
    pub labels: Vec<(String, Option<String>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    pub selectors: Vec<Selector>,
    /// By which something is grouped or matched.
    pub labels: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    /// A range, such as `[5m]`.
    Range,
    Sign(char),
}

fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_:.$".contains(c);
        let (token, length) = match first {
            '"' => {
                let length = rest[1..].find('"').expect("the string ends");
                (Some(Token::Text(rest[1..=length].to_owned())), length + 2)
            }
            '[' => (
                Some(Token::Range),
                rest.find(']').expect("the range ends") + 1,
            ),
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (Some(Token::Word(rest[..length].to_owned())), length)
            }
            c if c.is_whitespace() => (None, c.len_utf8()),
            c => (Some(Token::Sign(c)), c.len_utf8()),
        };
        tokens.extend(token);
        rest = &rest[length..];
    }
    tokens
}

/// After these, a list of labels in parentheses.
const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const KEYWORDS: [&str; 7] = ["and", "or", "unless", "offset", "bool", "inf", "nan"];

pub fn names(expression: &str) -> Names {
    let mut names = Names {
        selectors: Vec::new(),
        labels: BTreeSet::new(),
    };
    let mut tokens = tokens(expression).into_iter().peekable();
    while let Some(token) = tokens.next() {
        let Token::Word(word) = token else { continue };
        let called = tokens.peek() == Some(&Token::Sign('('));
        if GROUPING.contains(&word.as_str()) {
            while called && let Some(token) = tokens.next_if(|it| *it != Token::Sign(')')) {
                if let Token::Word(label) = token {
                    names.labels.insert(label);
                }
            }
            continue;
        }
        // Functions and aggregations; `sum by (…) (…)` has its list first.
        let aggregates = matches!(tokens.peek(), Some(Token::Word(next))
            if GROUPING.contains(&next.as_str()));
        let number = word.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        if called || aggregates || number || KEYWORDS.contains(&word.as_str()) {
            continue;
        }
        let mut labels = Vec::new();
        if tokens.next_if_eq(&Token::Sign('{')).is_some() {
            let matchers: Vec<_> =
                std::iter::from_fn(|| tokens.next_if(|it| *it != Token::Sign('}'))).collect();
            for matcher in matchers.split(|it| *it == Token::Sign(',')) {
                labels.push(match matcher {
                    [Token::Word(label), Token::Sign('='), Token::Text(value)]
                        if !value.contains('$') =>
                    {
                        (label.clone(), Some(value.clone()))
                    }
                    [Token::Word(label), ..] => (label.clone(), None),
                    _ => panic!("no matcher: {matcher:?}"),
                });
            }
        }
        names.selectors.push(Selector { name: word, labels });
    }
    names
}

#[test]
fn what_is_a_name() {
    let names = names(
        r#"histogram_quantile(0.95, sum by (le, who) (rate(a:b_bucket{x="y", z=~"$z"}[5m])))
           / on(q) max(c_total offset 5m) > bool 1e3 and sum without () (d) or up{n="a,b} e"}"#,
    );
    let selector = |name: &str, labels: &[(&str, Option<&str>)]| Selector {
        name: name.to_owned(),
        labels: labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), value.map(str::to_owned)))
            .collect(),
    };
    assert_eq!(
        names.selectors,
        [
            selector("a:b_bucket", &[("x", Some("y")), ("z", None)]),
            selector("c_total", &[]),
            selector("d", &[]),
            selector("up", &[("n", Some("a,b} e"))]),
        ]
    );
    assert!(names.labels.iter().eq(["le", "q", "who"]));
}
