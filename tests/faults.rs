//! The crate's own stream, machine and driver over legs that split, delay, cut and lie: the soak's world
//! (`testing::sim`), as tests.

use proptest::{prelude::*, test_runner::FileFailurePersistence};
use testing::sim::{
    app::Ending,
    leg::Kind,
    world::{self, Case, Cut, Outcome},
};

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Yamux), Just(Kind::Quic)]
}

prop_compose! {
    /// Like the soak's, but shrinking towards a short schedule with little going wrong.
    fn cases()(
        seed in any::<u64>(),
        kinds in [kind(), kind(), kind()],
        verify in any::<[bool; 2]>(),
        migrations in 0..7_usize,
        kills in 0..3_usize,
        refusals in any::<bool>(),
        early_timeouts in any::<bool>(),
        read_ahead in prop_oneof![Just((100, 1000)), Just((100, 60)), Just((0, 0))],
        sleeps in [proptest::option::weighted(0.2, 0..300_usize), proptest::option::weighted(0.2, 0..300_usize)],
        silences in prop_oneof![2 => Just(0), 1 => 1..3_usize],
        late in any::<bool>(),
    ) -> Case {
        Case {
            seed, kinds, verify, migrations, constant: false, kills, refusals, early_timeouts, read_ahead, sleeps, silences, late,
            cut: None, resumes: false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 5_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/faults.proptest-regressions",
        ))),
        ..ProptestConfig::default()
    })]

    /// A failure prints the whole case, and is kept in a file beside this one to be tried first.
    #[test]
    fn no_schedule_loses_repeats_reorders_or_cuts(case in cases()) {
        let outcome = world::run(case);
        prop_assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    }
}

/// Seeds that once failed, and why.
#[test]
fn seeds_that_once_failed() {
    for (seed, why) in [
        (147, "a leg whose close failed was closed again for ever"),
        (
            357,
            "a deny was dropped with the legs of a stream that finished",
        ),
        (
            218,
            "a Migrate for a stream that had just finished was dropped, not denied",
        ),
        (
            60_592,
            "an older Migrate took the place of a newer one that was held",
        ),
    ] {
        let outcome = world::run(Case {
            silences: 0,
            late: false,
            ..Case::from_seed(seed)
        });
        assert_eq!(outcome.violation, None, "{seed}: {why}");
    }
}

/// An application that had dropped its stream in a migration, which then ended by a resume: the stream stayed, and its
/// remote waited for ever for a reader.
#[test]
fn a_drop_in_a_migration_is_not_undone_by_a_resume() {
    for seed in [33_502, 45_583] {
        let outcome = world::run(Case::from_seed(seed).resumable());
        assert_eq!(outcome.violation, None, "{seed}");
    }
}

/// An end of the old leg that waited for room was settled on the new leg, once the migration had been
/// completed without it: a clean end, of a stream that nobody had closed.
#[test]
fn the_end_of_an_old_leg_is_not_the_new_ones() {
    let kinds = [Kind::Quic, Kind::Yamux, Kind::Quic];
    let outcome = world::run(Case {
        migrations: 2,
        constant: false,
        ..calm(17_780_517_070_347_453_332, kinds)
    });
    assert_eq!(outcome.violation, None);
}

/// A case in which nothing goes wrong.
fn calm(seed: u64, kinds: [Kind; 3]) -> Case {
    Case {
        seed,
        kinds,
        verify: [true; 2],
        migrations: 0,
        constant: false,
        kills: 0,
        refusals: false,
        early_timeouts: false,
        read_ahead: (100, 1000),
        sleeps: [None; 2],
        silences: 0,
        late: false,
        cut: None,
        resumes: false,
    }
}

fn kill_at_every_byte(kinds: [Kind; 2], connection: u8, resumes: bool) {
    // There are twice as many of the latter.
    let total = if resumes { 300 } else { 2048 };
    let case = |after| Case {
        resumes,
        cut: Some(Cut {
            total,
            connection,
            after,
        }),
        ..calm(7, [kinds[0], kinds[1], kinds[1]])
    };
    // Never cut: everything crosses, which is the record of the migration.
    let whole = world::run(case(usize::MAX));
    assert_eq!(whole.violation, None);
    assert_eq!(whole.ends, [Some((Ending::Clean, true)); 2]);
    assert_eq!(whole.migrations, 2);
    let (mut exact, mut errors) = (0, 0);
    for after in 1..=whole.crossed {
        let Outcome {
            violation, ends, ..
        } = world::run(case(after));
        assert_eq!(violation, None, "cut after {after}");
        for end in ends {
            match end {
                Some((Ending::Clean, true)) => exact += 1,
                Some((Ending::Failed, _)) => errors += 1,
                end => panic!("cut after {after} of {}: {end:?}", whole.crossed),
            }
        }
    }
    println!(
        "{kinds:?}, connection {connection}: {} cuts, {exact} exact ends, {errors} errors",
        whole.crossed
    );
    // Both happen, or the cuts were not where they should be; but nothing ends a stream that outlives its connections.
    assert_eq!(errors > 0, !resumes, "{errors}");
}

/// 2 KiB each way, both write sides open until all has been read: the old connection, then the new one,
/// is cut after every byte that crosses it, control messages included. Each run ends in exact delivery or
/// in an error; none in a short end that looks clean, none in a hang.
#[test]
fn kill_the_old_connection_at_every_byte() {
    for old in [Kind::Yamux, Kind::Quic] {
        for new in [Kind::Yamux, Kind::Quic] {
            kill_at_every_byte([old, new], 0, false);
        }
    }
}

macro_rules! kill_the_new_connection_at_every_byte {
    ($($name:ident: $old:ident, $new:ident;)*) => {
        $(
            #[test]
            fn $name() {
                kill_at_every_byte([Kind::$old, Kind::$new], 1, false);
            }
        )*
    };
}

kill_the_new_connection_at_every_byte! {
    kill_the_new_connection_yamux_to_yamux: Yamux, Yamux;
    kill_the_new_connection_yamux_to_quic: Yamux, Quic;
    kill_the_new_connection_quic_to_yamux: Quic, Yamux;
    kill_the_new_connection_quic_to_quic: Quic, Quic;
}

/// The same for a stream that outlives its connections, of which a third is left: whichever connection is cut after
/// whichever byte, both get everything, and a clean end.
#[test]
fn kill_either_connection_under_a_stream_that_outlives_it() {
    for old in [Kind::Yamux, Kind::Quic] {
        for new in [Kind::Yamux, Kind::Quic] {
            for connection in [0, 1] {
                kill_at_every_byte([old, new], connection, true);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/faults.proptest-regressions",
        ))),
        ..ProptestConfig::default()
    })]

    /// Connections are lost, or go silent, at any time, and one is left: a stream that outlives them is exact, and nothing ends it.
    #[test]
    fn no_loss_ends_a_stream_that_outlives_it(case in cases()) {
        let outcome = world::run(case.resumable());
        prop_assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    }
}
