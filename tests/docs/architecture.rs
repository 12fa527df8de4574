//! The tables in `docs/architecture.md` are the sources' imports: which room knows which. A room may know
//! only those above it, so there is no circle; and the core knows no swarm. `REGENERATE=1` writes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::Command,
};

type Rooms = BTreeMap<String, BTreeSet<String>>;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Without comments, and without the tests at the end of a file.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = source.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// The first names of the items in a `{…}` list that has just been opened.
fn listed(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut names) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first(text[from..at].trim_start()));
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// What a source names as `crate::…`.
fn imports(source: &str) -> Vec<&str> {
    let after = source.split("crate::").skip(1);
    after
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => listed(list),
            None => vec![first(rest)],
        })
        .collect()
}

/// In which room a name lives that `lib.rs` hands on.
fn homes(lib: &str) -> BTreeMap<String, String> {
    let lib = code(lib);
    let list = lib.split("pub use crate::{").nth(1).unwrap_or_default();
    let list = list.split("\n};").next().unwrap();
    let mut homes = BTreeMap::new();
    let mut room = "";
    for word in list.split(|c: char| !c.is_alphanumeric() && c != '_') {
        match word.chars().next() {
            Some(c) if c.is_lowercase() => room = word,
            Some(_) => drop(homes.insert(word.to_owned(), room.to_owned())),
            None => {}
        }
    }
    homes
}

fn walk(folder: &Path, room: Option<&str>, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let of = room.unwrap_or(&stem);
        if path.is_dir() {
            walk(&path, Some(of), sources);
        } else if path.extension().is_some_and(|it| it == "rs")
            && !["lib", "tests", "books", "check"].contains(&stem.as_str())
        {
            sources.push((of.to_owned(), code(&fs::read_to_string(&path).unwrap())));
        }
    }
}

fn found(folder: &str) -> Rooms {
    let homes = homes(&read(format!("{folder}/lib.rs")));
    let mut sources = Vec::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    walk(&path, None, &mut sources);
    let mut rooms = Rooms::new();
    for (room, source) in &sources {
        let names = imports(source).into_iter();
        let names = names.map(|name| homes.get(name).map_or(name, String::as_str));
        // The one room whose name is taken in the storey above.
        let names = names.map(|name| {
            if name == "migratable" {
                "core stream"
            } else {
                name
            }
        });
        let uses = rooms.entry(room.clone()).or_default();
        uses.extend(names.filter(|name| name != room).map(str::to_owned));
    }
    rooms
}

/// The rows under a heading, in order: a room, and those that it uses.
fn told(page: &str, heading: &str) -> Vec<(String, BTreeSet<String>)> {
    let section = page.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let names = |cell: &str| -> Vec<String> {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        let room = names(cells[1]).remove(0);
        (room, names(cells[2]).into_iter().collect())
    })
    .collect()
}

/// Writes what each room uses. Where a new room belongs, and what it is for, somebody has to say.
fn regenerate(heading: &str, found: &Rooms) -> Vec<String> {
    let page = read("docs/architecture.md");
    let mut inside = false;
    let lines = page.lines().map(|line| {
        if let Some(begun) = line.strip_prefix("## ") {
            inside = begun == heading;
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let room = cells.get(1).map(|cell| cell.trim_matches('`'));
        match room.and_then(|room| found.get_key_value(room)) {
            Some((room, uses)) if inside && cells.len() == 5 => {
                let uses: Vec<_> = uses.iter().map(|it| format!("`{it}`")).collect();
                let uses = if uses.is_empty() {
                    "–".to_owned()
                } else {
                    uses.join(", ")
                };
                format!("| `{room}` | {uses} | {} |", cells[3])
            }
            _ => line.to_owned(),
        }
    });
    let page = lines.collect::<Vec<_>>().join("\n") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    fs::write(path, page).unwrap();
    Vec::new()
}

fn compare(folder: &str, heading: &str, below: &[String]) -> Vec<String> {
    let told = told(&read("docs/architecture.md"), heading);
    let found = found(folder);
    if env::var_os("REGENERATE").is_some() {
        return regenerate(heading, &found);
    }
    let rooms: Rooms = told.iter().cloned().collect();
    assert_eq!(
        rooms.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>()
    );
    for (room, uses) in &found {
        assert_eq!(
            rooms[room], *uses,
            "what `{room}` uses, as the page and the source say"
        );
    }
    let mut above = below.to_vec();
    for (room, uses) in told {
        let unknown: Vec<_> = uses.iter().filter(|it| !above.contains(it)).collect();
        assert!(
            unknown.is_empty(),
            "{room} knows of {unknown:?}, which come after it"
        );
        above.push(room);
    }
    above
}

#[test]
fn the_rooms_are_as_the_page_shows_them() {
    let mut core = compare("core/src", "The core", &[]);
    core.retain(|room| room != "stream");
    core.push("core stream".to_owned());
    let both = compare("src", "The swarm storey", &core);
    assert!(
        both.len() > 20 || env::var_os("REGENERATE").is_some(),
        "{both:?}"
    );
}

#[test]
fn imports_are_found_in_every_layout() {
    let source =
        "use crate::{\n    a::{B, C},\n    d,\n    E,\n};\nuse crate::f::G;\nlet h = crate::i::J;";
    assert_eq!(imports(source), ["a", "d", "E", "f", "i"]);
}

#[test]
fn the_core_knows_no_swarm() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--prefix", "none"])
        .args(["-p", "libp2p-stream-migration-core", "-e", "normal,build"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.starts_with("libp2p-stream-migration-core "), "{tree}");
    assert!(tree.contains("libp2p-core"), "{tree}");
    assert!(!tree.contains("swarm"), "{tree}");
}
