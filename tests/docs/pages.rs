//! The pages in `docs/`, against what cites them and what they name.
//!
//! Comments cite sections of `docs/protocol.md` and of `docs/rules.md` as `*Heading*`, with a capital,
//! and rules of the latter by their number. Tests in `tests/field` name their row in `docs/field.md`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules"].contains(&name.as_str()) {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// All files whose names end so, each as its path from the root and its text.
fn files(extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(root(), &mut found);
    found.sort();
    let fits = |path: &PathBuf| {
        let extension = path.extension().and_then(|it| it.to_str());
        extension.is_some_and(|it| extensions.contains(&it))
    };
    let text = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    found.into_iter().filter(fits).map(text).collect()
}

/// A comment and what follows it: consecutive lines are one comment.
#[derive(Debug, PartialEq)]
struct Comment {
    line: usize,
    lines: Vec<String>,
    /// The first line after it.
    next: String,
}

impl Comment {
    fn text(&self) -> String {
        self.lines.join(" ")
    }
}

fn comments(source: &str) -> Vec<Comment> {
    let mut comments: Vec<Comment> = Vec::new();
    let mut goes_on = false;
    for (number, line) in source.lines().enumerate() {
        let trimmed = line.trim_start();
        let whole = ["//", "/*", "* "].iter().any(|it| trimmed.starts_with(it));
        let text = match trimmed.split_once("// ") {
            _ if whole => trimmed.trim_start_matches(['/', '!']),
            Some((_, text)) => text,
            None => {
                if let Some(last) = comments.last_mut().filter(|last| last.next.is_empty()) {
                    last.next = trimmed.to_owned();
                }
                goes_on = false;
                continue;
            }
        };
        // What is left of a block comment's sign.
        let text = text.trim_start_matches("**").trim_start_matches("* ");
        let text = text.trim().to_owned();
        match comments.last_mut() {
            Some(last) if goes_on && whole => last.lines.push(text),
            _ => comments.push(Comment {
                line: number + 1,
                lines: vec![text],
                next: String::new(),
            }),
        }
        goes_on = whole;
    }
    comments
}

#[test]
fn comments_are_found_in_every_language() {
    let source =
        "/// One *Half\n//  closed*.\nfn it() {}\n/** *Two* */\nlet x = 1; // three\n * four\n";
    let found: Vec<_> = comments(source).iter().map(Comment::text).collect();
    assert_eq!(found, ["One *Half closed*.", "*Two* */", "three", "four"]);
    assert_eq!(comments(source)[0].next, "fn it() {}");
}

/// All `*Headings*` that a text cites.
fn cited_headings(text: &str) -> Vec<&str> {
    let allowed = |it: char| it.is_alphanumeric() || " ,'-".contains(it);
    let mut found = Vec::new();
    for (start, _) in text.match_indices('*') {
        let before = text[..start].chars().next_back();
        let inside = &text[start + 1..];
        let Some(end) = inside.find(|it| !allowed(it)) else {
            continue;
        };
        let after = inside[end + 1..].chars().next();
        let opens = before.is_none_or(|it| !it.is_alphanumeric() && it != '*');
        let closes = inside[end..].starts_with('*') && after != Some('*');
        if opens && closes && inside.starts_with(char::is_uppercase) {
            found.push(&inside[..end]);
        }
    }
    found
}

/// The numbers of all rules, or counterexamples, that a text cites.
fn cited_rules(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let words: Vec<_> = text.split([' ', '(', ')']).collect();
    for (at, word) in words.iter().enumerate() {
        let word = word.to_lowercase();
        if !["rule", "rules", "trace", "traces"].contains(&word.as_str()) {
            continue;
        }
        for word in &words[at + 1..] {
            let number = word.trim_end_matches(|it: char| it.is_ascii_punctuation());
            match number.parse() {
                Ok(number) => found.push(number),
                Err(_) if *word == "and" => continue,
                Err(_) => break,
            }
            if word.ends_with(['.', ';', ':']) {
                break;
            }
        }
    }
    found
}

#[test]
fn citations_are_found() {
    let text = "(*Who starts*, **Not**, *not*) a * B*c *Half-closed streams*: *x.Y*";
    assert_eq!(cited_headings(text), ["Who starts", "Half-closed streams"]);
    let text = "Rules 1, 5 and 8 live; (rule 11). Trace 3: 4 rules, rule of 7";
    assert_eq!(cited_rules(text), [1, 5, 8, 11, 3]);
}

fn headings(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
}

/// The cells of all rows of all tables.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines().filter_map(|line| {
        let row = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(row.split('|').map(str::trim).collect())
    })
}

fn code(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_section_and_rule_that_is_cited_exists() {
    let (protocol, rules) = (page("docs/protocol.md"), page("docs/rules.md"));
    let headings: Vec<_> = headings(&protocol).chain(headings(&rules)).collect();
    let rule = |row: Vec<&str>| row[0].parse::<u32>().ok();
    let mut numbers: Vec<_> = rows(&rules).filter_map(rule).collect();
    // A later one may stand among its like.
    numbers.sort_unstable();
    let all: Vec<_> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, all);

    let mut cited = 0;
    let mut wrong = Vec::new();
    let mut look = |place: String, text: &str| {
        for heading in cited_headings(text) {
            cited += 1;
            if !headings.contains(&heading) {
                wrong.push(format!("{place}: *{heading}*"));
            }
        }
        for number in cited_rules(text) {
            cited += 1;
            if !numbers.contains(&number) {
                wrong.push(format!("{place}: rule {number}"));
            }
        }
    };
    for (file, source) in files(&["rs", "go", "js", "proto"]) {
        if file == "tests/docs/pages.rs" {
            continue;
        }
        for comment in comments(&source) {
            look(format!("{file}:{}", comment.line), &comment.text());
        }
    }
    for (file, text) in [("docs/protocol.md", &protocol), ("docs/rules.md", &rules)] {
        for paragraph in text.split("\n\n") {
            look(file.to_owned(), &paragraph.replace('\n', " "));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cited > 80, "{cited}");
}

/// A page that is named is in the repository: whoever reads the code has it.
#[test]
fn every_page_that_is_cited_exists() {
    let mut wrong = Vec::new();
    for (file, source) in files(&["rs", "go", "js", "proto", "toml"]) {
        let words = source.split(|it: char| !it.is_alphanumeric() && !"./_-".contains(it));
        for word in words.filter(|it| it.ends_with(".md") && !it.starts_with('.')) {
            let word = word.trim_start_matches('/');
            let beside = root().join(&file).with_file_name(word);
            if !root().join(word).exists() && !beside.exists() {
                wrong.push(format!("{file}: {word}"));
            }
        }
    }
    for (file, text) in files(&["md"]) {
        for source in text.lines().flat_map(code) {
            let is_path = source.ends_with(".rs") && source.contains('/') && !source.contains(' ');
            if is_path && !root().join(source).exists() {
                wrong.push(format!("{file}: {source}"));
            }
        }
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|it| it.split(')').next());
        for link in links.filter(|it| !it.contains("://") && !it.starts_with('#')) {
            let target = link.split('#').next().unwrap();
            if !root().join(&file).with_file_name(target).exists() {
                wrong.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A name is a test's if it is in the last column of a table of these pages, or if it is long.
#[test]
fn every_test_that_is_named_exists() {
    let sources: String = files(&["rs"]).into_iter().map(|(_, text)| text).collect();
    let exists = |name: &str| {
        let name = name.rsplit("::").next().unwrap();
        ["fn {name}(", "{name}:"]
            .iter()
            .any(|it| sources.contains(&it.replace("{name}", name)))
    };
    let is_name = |it: &&str| {
        let allowed =
            |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "_:".contains(it);
        !it.is_empty() && it.chars().all(allowed)
    };
    let mut wrong = Vec::new();
    let mut named = 0;
    for (file, text) in files(&["md"]) {
        let tables = ["docs/errata.md", "docs/rules.md", "docs/field.md"];
        let last = rows(&text).filter_map(|row| row.last().copied());
        let in_tables = last
            .filter(|_| tables.contains(&file.as_str()))
            .flat_map(code);
        let long = text.lines().flat_map(code);
        let long = long.filter(|it| it.matches('_').count() >= 3);
        for name in in_tables.chain(long).filter(is_name) {
            named += 1;
            if !exists(name) {
                wrong.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named > 150, "{named}");
}

/// `A1`, or `B10, B11`, or either with the reports behind a dot: the rows.
fn rows_named(line: &str) -> Option<Vec<&str>> {
    let names = line.split(" · ").next()?;
    let is_row = |it: &&str| {
        let number = it.strip_prefix(|it| ('A'..='F').contains(&it));
        number.is_some_and(|it| it.parse::<u32>().is_ok())
    };
    let names: Vec<_> = names.split(", ").collect();
    names.iter().all(is_row).then_some(names)
}

#[test]
fn every_row_of_the_field_has_its_tests() {
    let page = page("docs/field.md");
    let rows: BTreeMap<_, _> = rows(&page)
        .filter(|row| rows_named(row[0]).is_some())
        .map(|row| (row[0].to_owned(), row.join("|")))
        .collect();
    assert!(rows.len() > 35, "{}", rows.len());
    let mut wrong = Vec::new();
    let mut named = 0;
    for (file, source) in files(&["rs"]) {
        if !file.starts_with("tests/field/") {
            continue;
        }
        for comment in comments(&source) {
            let last = comment.lines.last().unwrap();
            let Some(names) = rows_named(last) else {
                continue;
            };
            named += 1;
            let test = source.lines().skip(comment.line + comment.lines.len() - 1);
            let test = test.filter_map(|line| line.trim().split_once("fn ")).next();
            let test = test.unwrap().1.split('(').next().unwrap();
            let reports = last.split(" · ").nth(1).unwrap_or_default();
            for name in names {
                let row = rows.get(name).map_or("", String::as_str);
                if !row.contains(&format!("`{test}`")) {
                    wrong.push(format!("{file}: {name} does not name {test}"));
                }
            }
            for report in reports.split(", ").filter(|it| !it.is_empty()) {
                let number = report.rsplit(' ').next().unwrap();
                if !page.contains(number) {
                    wrong.push(format!("{file}: {report} is not on the page"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(named > 60, "{named}");
}

/// The front door: short, its program is the example that its first command runs, and no link of it is
/// dead where the README is the crate's documentation.
#[test]
fn the_readme_is_what_it_says() {
    let (readme, hello) = (page("README.md"), page("examples/hello.rs"));
    assert!(readme.lines().count() <= 150);
    assert!(hello.lines().count() <= 120);
    let program = format!("```rust,no_run\n{hello}```\n");
    assert!(readme.contains(&program), "README.md has another program");
    let command = readme.split("```sh\n").nth(1).unwrap();
    assert!(command.starts_with("cargo run --example hello "));
    let links = readme.split("](").skip(1);
    assert!(links.clone().all(|link| link.starts_with("https://")));
    assert!(links.count() > 0);
}

/// An IDE shows a documentation comment alone: the noun that it is about comes first.
#[test]
fn documentation_begins_with_the_noun() {
    let relative = [
        "Whether", "What", "Who", "Whose", "Whom", "How", "When", "Where", "Which", "It", "They",
        "Of", "Has",
    ];
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (file, source) in files(&["rs"]) {
        let of_library = file.starts_with("src/") || file.starts_with("core/src/");
        if !of_library || file.ends_with("tests.rs") || file.contains("/generated/") {
            continue;
        }
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        for comment in comments(&source) {
            let line = lines[comment.line - 1];
            if !line.starts_with("///") && !line.starts_with("//!") {
                continue;
            }
            seen += 1;
            let first = comment.lines[0].split([' ', '\'']).next().unwrap();
            if relative.contains(&first) {
                wrong.push(format!("{file}:{}: {}", comment.line, comment.lines[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 800, "{seen}");
}
