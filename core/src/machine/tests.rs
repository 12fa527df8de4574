//! Every state × every input, against a table that was read and is kept beside this file, and the
//! paths that the table cannot show.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    path::Path,
};

use super::*;

const SETUP: Setup = Setup {
    designated: true,
    verify: false,
    peer_verifies: false,
    speech: Speech::No,
    opener: true,
    keeps: false,
};
const VERIFY: Setup = Setup {
    verify: true,
    ..SETUP
};
const OTHER: Setup = Setup {
    designated: false,
    ..SETUP
};

const FIN: Eof = Eof {
    proof: Proof::Agrees,
    ambiguous: true,
    fin: false,
};
const RESET: Eof = Eof {
    proof: Proof::Disagrees,
    ambiguous: true,
    fin: false,
};

fn migrate(id: u64, from: u64, verify: bool) -> Input {
    Input::Migrate {
        id: StreamId(id),
        from: StreamId(from),
        verify,
    }
}

fn acked(deny: bool, verify: bool) -> Input {
    Input::Answered { deny, verify }
}

const START: Input = Input::Start { id: StreamId(2) };
const ACCEPT: Input = Input::Verdict(Question(1), Verdict::Accept);
const EOF: Input = Input::End(Slot::Current, FIN);

/// A machine with ID 0 that has taken these inputs, its outputs discarded.
fn machine(setup: Setup, inputs: &[Input]) -> Machine {
    let mut machine = Machine::new(StreamId(0), setup);
    for input in inputs {
        machine.handle(*input);
    }
    machine.outputs.clear();
    machine
}

/// The named states.
fn states() -> Vec<(&'static str, Machine)> {
    use Input::{AnswerWritten, CloseWrite, Closed, ReadFailed, Switched};
    let m1 = migrate(1, 0, false);
    let m1v = migrate(1, 0, true);
    let old_closed = Closed(Slot::Current);
    vec![
        ("stable", machine(SETUP, &[])),
        (
            "stable, write closed",
            machine(SETUP, &[CloseWrite, old_closed]),
        ),
        ("stable, read ended", machine(SETUP, &[EOF])),
        (
            "stable, both ended",
            machine(SETUP, &[EOF, CloseWrite, old_closed]),
        ),
        (
            "stable, in doubt",
            machine(SETUP, &[START, ReadFailed(Slot::Ours)]),
        ),
        (
            "stable, in doubt, write closed",
            machine(SETUP, &[START, ReadFailed(Slot::Ours), CloseWrite]),
        ),
        ("stable, asked", machine(SETUP, &[m1])),
        ("requested, designated", machine(SETUP, &[START])),
        ("requested, other", machine(OTHER, &[START])),
        ("requested, eof held", machine(SETUP, &[START, EOF])),
        (
            "requested, eof held after fin",
            machine(SETUP, &[CloseWrite, START, EOF]),
        ),
        ("requested, theirs held", machine(SETUP, &[START, m1])),
        ("requested, theirs asked", machine(OTHER, &[START, m1])),
        (
            "requested, next one held",
            machine(OTHER, &[START, migrate(3, 2, false)]),
        ),
        ("answering", machine(SETUP, &[m1, ACCEPT])),
        ("answering, eof held", machine(SETUP, &[m1, ACCEPT, EOF])),
        ("initiator", machine(SETUP, &[START, acked(false, false)])),
        (
            "initiator, old closed",
            machine(SETUP, &[START, acked(false, false), old_closed]),
        ),
        (
            "initiator, old read",
            machine(SETUP, &[START, acked(false, false), EOF]),
        ),
        (
            "initiator, verify",
            machine(VERIFY, &[START, acked(false, true)]),
        ),
        (
            "initiator, verify, old read",
            machine(VERIFY, &[START, acked(false, true), old_closed, EOF]),
        ),
        (
            "initiator, verify, counted",
            machine(
                VERIFY,
                &[START, acked(false, true), old_closed, Switched(7)],
            ),
        ),
        ("responder", machine(SETUP, &[m1, ACCEPT, AnswerWritten])),
        (
            "responder, old read",
            machine(SETUP, &[m1, ACCEPT, AnswerWritten, EOF]),
        ),
        (
            "responder, verify",
            machine(VERIFY, &[m1v, ACCEPT, AnswerWritten]),
        ),
        (
            "responder, verify, old read",
            machine(VERIFY, &[m1v, ACCEPT, AnswerWritten, EOF]),
        ),
        (
            "responder, verify, counted",
            machine(VERIFY, &[m1v, ACCEPT, AnswerWritten, Switched(7)]),
        ),
        (
            "responder, verify, old leg lost",
            machine(
                VERIFY,
                &[
                    m1v,
                    ACCEPT,
                    AnswerWritten,
                    ReadFailed(Slot::Current),
                    Input::WriteFailed(Slot::Current),
                ],
            ),
        ),
        (
            "responder, verify, switched",
            machine(VERIFY, &[m1v, ACCEPT, AnswerWritten, Switched(0)]),
        ),
        (
            "detached, initiator",
            machine(SETUP, &[START, acked(false, false), CloseWrite, DROPPED]),
        ),
        ("aborted", machine(SETUP, &[ReadFailed(Slot::Current)])),
        (
            "finished",
            machine(SETUP, &[CloseWrite, old_closed, DROPPED]),
        ),
    ]
}

const DROPPED: Input = Input::Dropped {
    closed: true,
    answered: true,
};

fn inputs() -> Vec<Input> {
    let mut inputs = vec![
        Input::Start { id: StreamId(4) },
        acked(false, false),
        acked(false, true),
        acked(true, false),
        migrate(5, 0, false),
        migrate(5, 0, true),
        migrate(5, 2, false),
        migrate(5, 9, false),
        ACCEPT,
        Input::Verdict(Question(1), Verdict::Deny),
        Input::Verdict(Question(1), Verdict::NotNow),
        Input::Verdict(Question(7), Verdict::Deny),
        Input::HeldTooLong,
        Input::AnswerWritten,
        Input::Switched(0),
        Input::Switched(7),
        Input::ReadAll,
        Input::CloseWrite,
        Input::Dropped {
            closed: false,
            answered: true,
        },
        DROPPED,
        Input::Dropped {
            closed: true,
            answered: false,
        },
        Input::Timeout,
        Input::ProbeAnswered,
        Input::ProbeFailed(Slot::Current),
        Input::ProbeFailed(Slot::New),
    ];
    for slot in [Slot::Current, Slot::Ours, Slot::Theirs, Slot::New] {
        inputs.extend([
            Input::End(slot, FIN),
            Input::End(slot, RESET),
            Input::ReadFailed(slot),
            Input::WriteFailed(slot),
            Input::Unexpected(slot),
            Input::Closed(slot),
            Input::Cancelled(slot),
        ]);
    }
    inputs
}

/// A row: what the machine puts out, what has become of it.
fn row(mut machine: Machine, input: Input) -> String {
    let before = machine.clone();
    machine.handle(input);
    let outputs: Vec<_> = machine.outputs.drain(..).collect();
    if outputs.is_empty() && machine == before {
        return "–".to_owned();
    }
    let phase = match machine.phase {
        Phase::Stable => format!("stable as {}", machine.id),
        Phase::Aborted(abort) => format!("aborted: {abort:?}"),
        Phase::Agreed(_) => "agreed".to_owned(),
        _ => phase_name(&machine).to_owned(),
    };
    let doubt = if machine.doubt { ", in doubt" } else { "" };
    format!(
        "{phase}{doubt}; write {:?}; read {:?}; {outputs:?}",
        machine.write_to(),
        machine.read_from(),
    )
}

fn phase_name(machine: &Machine) -> &'static str {
    match &machine.phase {
        Phase::Stable => "stable",
        Phase::Requested { .. } => "requested",
        Phase::Answering { .. } => "answering",
        Phase::Agreed(agreed) if agreed.initiator => "initiator",
        Phase::Agreed(_) => "responder",
        Phase::Legless { id: None } => "legless",
        Phase::Legless { id: Some(_) } => "resuming",
        Phase::Aborted(_) => "aborted",
        Phase::Finished => "finished",
    }
}

/// The diagram in `docs/protocol.md`: every change of phase that an input makes in any of the states.
/// `REGENERATE=1 cargo test` writes it.
#[test]
fn the_diagram_in_the_docs() {
    let mut edges = BTreeMap::<_, BTreeSet<_>>::new();
    for (_, before) in states() {
        for input in inputs() {
            let mut after = before.clone();
            after.handle(input);
            let (from, to) = (phase_name(&before), phase_name(&after));
            if from != to {
                let input = format!("{input:?}");
                let name = input.split([' ', '(']).next().unwrap().to_owned();
                edges.entry((from, to)).or_default().insert(name);
            }
        }
    }
    let mut diagram = String::from("```mermaid\nstateDiagram-v2\n    [*] --> stable\n");
    for ((from, to), inputs) in edges {
        let inputs: Vec<_> = inputs.into_iter().collect();
        writeln!(diagram, "    {from} --> {to}: {}", inputs.join(", ")).unwrap();
    }
    diagram += "    aborted --> [*]\n    finished --> [*]\n```\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    if !path.exists() {
        // The package comes without the repository.
        return;
    }
    let page = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- diagram -->\n", "<!-- end of diagram -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (shown, after) = rest.split_once(end).unwrap();
    if env::var_os("REGENERATE").is_some() {
        fs::write(&path, format!("{before}{begin}{diagram}{end}{after}")).unwrap();
    } else {
        assert_eq!(shown, diagram, "REGENERATE=1 cargo test --lib machine");
    }
}

/// `REGENERATE=1 cargo test` writes the table; then read the difference, row by row.
#[test]
fn every_state_and_every_input() {
    let mut table = String::new();
    for (name, machine) in states() {
        writeln!(table, "== {name}").unwrap();
        for input in inputs() {
            let line = row(machine.clone(), input);
            if line != "–" {
                writeln!(table, "{input:?}\n    {line}").unwrap();
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/machine/table.txt");
    if env::var_os("REGENERATE").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    for (number, (now, then)) in table.lines().zip(expected.lines()).enumerate() {
        assert_eq!(now, then, "src/machine/table.txt:{}", number + 1);
    }
    assert_eq!(table.lines().count(), expected.lines().count());
}

/// Invariants, which the table must never break, whatever it says.
#[test]
fn no_input_breaks_an_invariant() {
    for (name, machine) in states() {
        for first in inputs() {
            for second in inputs() {
                let mut machine = machine.clone();
                let over = machine.over();
                machine.handle(first);
                machine.handle(second);
                if over.is_some() {
                    assert_eq!(machine.over(), over, "{name}: what is over stays over");
                }
                let aborts = machine
                    .outputs
                    .iter()
                    .filter(|output| matches!(output, Output::Abort(_) | Output::Finish))
                    .count();
                assert!(aborts <= 1, "{name}, {first:?}, {second:?}");
                let mut fins = [0; 2];
                for output in &machine.outputs {
                    match output {
                        Output::Close(Slot::Current) => fins[0] += 1,
                        Output::Close(Slot::New) => fins[1] += 1,
                        _ => {}
                    }
                }
                assert!(
                    fins[0] <= 2 && fins[1] <= 1,
                    "{name}, {first:?}, {second:?}"
                );
            }
        }
    }
}

#[test]
fn a_half_closed_stream_stays_half_closed() {
    let mut machine = machine(
        VERIFY,
        &[Input::CloseWrite, Input::Closed(Slot::Current), START],
    );
    machine.handle(acked(false, true));
    assert_eq!(
        machine.outputs.drain(..).collect::<Vec<_>>(),
        [
            Output::Disarm,
            Output::Agreed {
                verify: true,
                initiator: true
            },
            Output::Arm(Timer::Progress),
            Output::SendSwitched(0),
            Output::Close(Slot::New),
        ]
    );
    assert_eq!(machine.write_to(), WriteTo::Closed);
}

#[test]
fn counts_decide_between_two_that_verify() {
    for (sent, over) in [
        (5, None),
        (6, Some(Err(Abort::Cut))),
        (4, Some(Err(Abort::Violation))),
    ] {
        for order in [0, 1] {
            let mut machine = machine(VERIFY, &[START]);
            machine.read(5);
            machine.handle(acked(false, true));
            machine.handle(Input::Closed(Slot::Current));
            let mut inputs = [Input::End(Slot::Current, RESET), Input::Switched(sent)];
            inputs.rotate_left(order);
            for input in inputs {
                // A count that has been reached needs no end.
                if machine.is_migrating() {
                    machine.handle(input);
                }
            }
            assert_eq!(machine.over(), over);
            if over.is_none() {
                assert_eq!(machine.id(), StreamId(2));
            }
        }
    }
}

/// A responder's old leg is silent, or lost before the count: what was counted has been read, and the
/// stream goes on. What the application wants to write in between waits for the new leg.
#[test]
fn a_count_that_is_reached_needs_no_end() {
    let inputs = [migrate(1, 0, true), ACCEPT, Input::AnswerWritten];
    let lost = [
        Input::ReadFailed(Slot::Current),
        Input::WriteFailed(Slot::Current),
    ];
    for lost in [&lost[..0], &lost[..1], &lost] {
        let mut machine = machine(VERIFY, &inputs);
        machine.read(3);
        lost.iter().for_each(|input| machine.handle(*input));
        let waits = machine.write_to() == WriteTo::Hold;
        assert_eq!(waits, lost.len() == 2);
        machine.handle(Input::Switched(5));
        if lost.is_empty() {
            assert!(!machine.has_read_all());
            machine.read(2);
            assert!(machine.has_read_all());
            machine.handle(Input::ReadAll);
            assert_eq!(machine.write_to(), WriteTo::Leg(Slot::New));
            assert_eq!(machine.read_from(), ReadFrom::Leg(Slot::New));
            machine.handle(Input::Closed(Slot::Current));
            // More than was counted would be noticed, but not for ever.
            assert_eq!(machine.check(), Some(Slot::Current));
            assert!(machine.is_migrating());
            machine.handle(Input::Timeout);
            assert_eq!((machine.id(), machine.over()), (StreamId(1), None));
        } else {
            // Two bytes are missing.
            assert_eq!(machine.over(), Some(Err(Abort::Cut)));
        }
    }
}

#[test]
fn counts_go_on_over_all_legs() {
    let mut machine = machine(
        VERIFY,
        &[START, acked(false, true), Input::Closed(Slot::Current)],
    );
    machine.wrote(10);
    machine.read(3);
    machine.handle(Input::Switched(3));
    machine.handle(EOF);
    assert_eq!(machine.id(), StreamId(2));
    machine.wrote(1);
    machine.outputs.clear();
    machine.handle(Input::Start { id: StreamId(4) });
    machine.handle(acked(false, true));
    assert!(machine.outputs.contains(&Output::SendSwitched(11)));
    assert_eq!(machine.counts(), (11, 3));
}
