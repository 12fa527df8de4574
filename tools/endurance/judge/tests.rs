use libp2p_stream_migration::ConnectionKey;

use super::*;

fn facts(written: u64, read: u64) -> Facts {
    Facts {
        outcome: Some(Outcome {
            reading: Reading::End,
            writing: Writing::Closed,
            read,
            write_side: WriteSide::Open,
            last: Some(ConnectionKey::new(1)),
            dropped: false,
            left: false,
            given_up: false,
        }),
        ended: Some(Ok(())),
        in_doubt: false,
        migrated: 1,
        quic: false,
        written,
        closing: true,
    }
}

fn whole() -> Case {
    Case {
        sides: [facts(100, 50), facts(50, 100)],
        chaos: false,
        silent: false,
        pinned: false,
        opened_on_closing: false,
        given_up: false,
        proven: false,
    }
}

fn outcome(case: &mut Case, side: usize) -> &mut Outcome {
    case.sides[side].outcome.as_mut().expect("there is one")
}

fn violations(case: &Case) -> usize {
    case.judge().violations.len()
}

fn exceptions(case: &Case) -> Vec<Exception> {
    let judgement = case.judge();
    assert_eq!(judgement.violations, Vec::<String>::new());
    judgement.exceptions
}

#[test]
fn a_whole_stream_is_right() {
    assert_eq!(whole().judge(), Judgement::default());
}

#[test]
fn a_clean_end_before_the_end_is_a_violation() {
    let mut case = whole();
    outcome(&mut case, 1).read = 99;
    assert_eq!(violations(&case), 1);
    let mut case = whole();
    case.sides[0].closing = false;
    assert_eq!(violations(&case), 1);
}

#[test]
fn an_error_without_a_cause_is_a_violation() {
    let mut case = whole();
    outcome(&mut case, 1).reading = Reading::Failed("reset".to_owned());
    assert_eq!(violations(&case), 1);
    case.chaos = true;
    assert_eq!(violations(&case), 0);
}

#[test]
fn wrong_bytes_are_a_violation_whatever_happened() {
    let mut case = whole();
    case.chaos = true;
    outcome(&mut case, 0).reading = Reading::Wrong(7);
    assert_eq!(violations(&case), 1);
}

#[test]
fn after_an_abort_a_clean_end_depends_on_leg_and_write_side() {
    for (quic, migrated, write_side, exception) in [
        (false, 1, WriteSide::Open, None),
        (
            false,
            1,
            WriteSide::Closed,
            Some(Exception::CleanEndWithClosedSide),
        ),
        (true, 1, WriteSide::Open, None),
        (
            true,
            1,
            WriteSide::Closed,
            Some(Exception::CleanEndOfAbortedQuic),
        ),
        (
            true,
            0,
            WriteSide::Open,
            Some(Exception::CleanEndOfAbortedQuic),
        ),
    ] {
        let mut case = whole();
        case.sides[1].quic = quic;
        case.sides[1].migrated = migrated;
        case.sides[0].closing = false;
        let reader = outcome(&mut case, 1);
        reader.read = 60;
        reader.write_side = write_side;
        let dropped = outcome(&mut case, 0);
        dropped.dropped = true;
        dropped.reading = Reading::Stopped;
        dropped.writing = Writing::Stopped;
        match exception {
            Some(exception) => assert_eq!(exceptions(&case), [exception]),
            None => assert_eq!(violations(&case), 1),
        }
    }
}

#[test]
fn a_reset_in_doubt_needs_a_doubt() {
    let mut case = whole();
    case.sides[1].ended = Some(Err(Abort::Unproven));
    let reader = outcome(&mut case, 1);
    reader.reading = Reading::Failed("reset".to_owned());
    reader.write_side = WriteSide::Closed;
    assert_ne!(violations(&case), 0);
    case.sides[1].in_doubt = true;
    assert_eq!(exceptions(&case), [Exception::ResetInDoubt]);
}

#[test]
fn who_does_not_go_on_without_a_cause_is_a_violation() {
    let mut case = whole();
    case.given_up = true;
    assert_eq!(violations(&case), 1);
    case.chaos = true;
    assert_eq!(exceptions(&case), [Exception::GivenUp]);
}

#[test]
fn who_stands_on_a_silent_path_may_fail_and_may_not_wait_for_ever() {
    let mut case = whole();
    case.silent = true;
    outcome(&mut case, 1).reading = Reading::Failed("lost".to_owned());
    assert_eq!(exceptions(&case), []);
    case.given_up = true;
    outcome(&mut case, 0).given_up = true;
    assert_eq!(exceptions(&case), [Exception::UnheardInSilence]);
    outcome(&mut case, 1).given_up = true;
    assert_eq!(violations(&case), 1);
    case.pinned = true;
    assert_eq!(exceptions(&case), [Exception::PinnedInSilence]);
}
