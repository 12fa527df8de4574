//! `examples/channels` as a program: what it prints, and its exit code.

use std::process::Command;

use testing::process::example;

#[test]
fn four_channels_move_and_no_message_is_lost() {
    let program = example("channels");
    let output = Command::new(program)
        .args(["--messages", "200"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}{complained}");
    for channel in ["consensus", "mempool", "evidence", "blocksync"] {
        for way in ["→", "←"] {
            let mut lines = said.lines().map(|line| line.split_whitespace());
            let row = lines.find(|row| row.clone().take(2).eq([channel, way]));
            let row: Vec<_> = row.unwrap().skip(3).collect();
            let [sent, received, lost, repeated, reordered, from, "→", to, ..] = row[..] else {
                panic!("{said}");
            };
            assert!(
                sent.parse::<u64>().unwrap() >= 200 && sent == received,
                "{said}"
            );
            assert_eq!([lost, repeated, reordered], ["0"; 3], "{said}");
            assert_eq!([from, to], ["tcp", "quic"], "{said}");
        }
    }
    assert!(said.contains("reader slept after 50 messages"), "{said}");
    assert!(said.contains("refused at the sender: 8 messages"), "{said}");
    let last = said.lines().last().unwrap();
    let messages = last.strip_prefix("messages: ").unwrap();
    let messages = messages.strip_suffix(", lost: 0").unwrap();
    assert!(messages.parse::<u64>().unwrap() >= 8 * 200, "{last}");
}
