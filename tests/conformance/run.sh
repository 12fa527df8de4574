#!/usr/bin/env bash
# rust-libp2p's own test suites, from the published packages, over swarms whose transport is wrapped by the layer.
#
#     run.sh [--suite S]... [--mode M]... [--keep]
#     run.sh --measure N [--suite S]...       how often which test fails without the layer: `flaky.txt`
#
# The packages are those of Cargo.lock. They are copied below the target directory, and edited there in one respect: a
# swarm is made by `conformance_layer::swarm!` (wrap.rs) instead of `Swarm::new`. Each suite is compiled once and runs
# in five modes, which the environment's LAYER_MODE names:
#
#     without    as it is
#     always     every stream labelled, on every link
#     second     every second swarm of a process without the layer, the others as in `always`
#     restless   `always`, and every stream moved all the time
#     default    as a user has it
#
# What fails in a layered mode and does not fail without makes the exit code 1. Logs stay in conformance-logs below the
# target directory; the copies go, unless something failed or --keep was given. With --keep they are used again as they
# are if nothing that they come from has changed, also if they were edited by hand.
#
# LAYER_BUILD=0 leaves the layer out of what is compiled: for `without` alone, while the crate does not build.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
# `.cargo/config.toml` goes by where cargo is started, and artifacts are shared only between equal flags.
cd "$project"
export CARGO_TERM_COLOR=never
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$project/$target ;; esac
export CARGO_TARGET_DIR=$target
work=$target/conformance-work
logs=$target/conformance-logs

all_suites=(request-response gossipsub identify ping relay dcutr stream swarm kad autonat)
all_modes=(without always second restless default)
# Versions for the same libp2p-swarm, of what Cargo.lock may not have.
declare -A pinned=([kad]=0.49.0 [autonat]=0.16.0 [swarm-test]=0.7.0)
# Where swarms are made, and how often.
declare -A places=(
    [swarm-test/src/lib.rs]=1
    [relay/tests/lib.rs]=2
    [dcutr/tests/lib.rs]=1
    [swarm/src/lib.rs]=1
    [kad/src/behaviour/test.rs]=1
)
# Said nothing about a transport, and compiles for minutes: compares what the compiler says to wrong programs.
declare -A left_out=([swarm]=ui)
# Most of five random cases of this are thrown away, and sometimes all. There is no other gossipsub over swarms.
declare -A rounds=(["gossipsub smoke"]=10)
# Seconds, for a whole test binary, and for a test by itself. Hanging is a way to fail.
binary_limit=300
test_limit=120

die() {
    echo "conformance: $*" >&2
    exit 1
}

suites=() modes=() keep=false measure=0
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suites+=("${2:?}") && shift ;;
    --mode) modes+=("${2:?}") && shift ;;
    --measure) measure=${2:?} && shift ;;
    --keep) keep=true ;;
    *) die "not understood: $1" ;;
    esac
    shift
done
among() {
    local one=$1 other
    shift
    for other; do [ "$one" != "$other" ] || return 0; done
    return 1
}
for suite in "${suites[@]}"; do among "$suite" "${all_suites[@]}" || die "no suite: $suite"; done
for mode in "${modes[@]}"; do among "$mode" "${all_modes[@]}" || die "no mode: $mode"; done
[ ${#suites[@]} -gt 0 ] || suites=("${all_suites[@]}")
# In our order, `without` first: the others are compared with it.
wanted=("${modes[@]}") modes=()
for mode in "${all_modes[@]}"; do
    if [ ${#wanted[@]} -eq 0 ] || among "$mode" "${wanted[@]}"; then modes+=("$mode"); fi
done
[ "$measure" = 0 ] || modes=(without)
if [ "${LAYER_BUILD:-1}" = 0 ] && [ "${modes[*]}" != without ]; then die "LAYER_BUILD=0 is for --mode without"; fi

# --- Assembling ---

# The version in the project's Cargo.lock, or the one pinned.
version_of() {
    local locked
    locked=$(sed -n "/^name = \"libp2p-$1\"$/{n;s/^version = \"\(.*\)\"$/\1/p;}" Cargo.lock)
    echo "${locked:-${pinned[$1]:?}}"
}

# What a source directory cannot say by itself: cargo has put it somewhere.
sources() {
    local dir=$work/fetch name
    mkdir -p "$dir/src"
    : >"$dir/src/lib.rs"
    cp Cargo.lock "$dir/"
    {
        printf '[package]\nname = "fetch"\nedition = "2024"\n[workspace]\n[dependencies]\n'
        for name in "${all_suites[@]}" swarm-test; do
            echo "libp2p-$name = \"=$(version_of "$name")\""
        done
    } >"$dir/Cargo.toml"
    # For this platform alone: all the others' crates would be fetched, too.
    cargo metadata --format-version 1 --manifest-path "$dir/Cargo.toml" \
        --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" >"$dir/metadata.json"
}

# The line of a program that makes a swarm, outside of comments.
makes_swarm='^[^/]*(^|[^A-Za-z_:])Swarm::new\('

# Replaces the maker of swarms, as often as is expected there.
edit() {
    local file=$1 expected=$2 found
    found=$(grep -cE "$makes_swarm" "$file" || true)
    [ "$found" = "$expected" ] || die "$file makes swarms in $found places, not in $expected"
    sed -E "\\#$makes_swarm#s/(^|[^A-Za-z_:])Swarm::new\\(/\\1conformance_layer::swarm!(/" "$file" >"$file.edited"
    mv "$file.edited" "$file"
}

# What the tests need, and publishing has stripped, since it is not published or would be a cycle.
stripped() {
    local dir=$1 line name
    sed -n '/^\[dev-dependencies\]/,/^\[/s/^[a-zA-Z0-9_-]* *= .*/&/p' "$dir/Cargo.toml.orig" | while read -r line; do
        name=${line%%[ =]*}
        if grep -q "^\[dev-dependencies\.$name\]" "$dir/Cargo.toml"; then continue; fi
        printf '\n[dev-dependencies.%s]\n' "$name"
        case $name in
        quickcheck) printf 'package = "quickcheck-ext"\npath = "../quickcheck-ext"\n' ;;
        *)
            printf 'version = "*"\n'
            grep -o 'features = \[[^]]*\]' <<<"$line" || true
            ;;
        esac
    done
}

assemble() {
    local name dir from kind place file
    rm -rf "$work"
    mkdir -p "$work/packages"
    sources

    for name in "${all_suites[@]}" swarm-test; do
        from=$(grep -o "\"manifest_path\":\"[^\"]*/libp2p-$name-$(version_of "$name")/Cargo.toml\"" \
            "$work/fetch/metadata.json" | head -n 1 | cut -d '"' -f 4)
        [ -n "$from" ] || die "cargo does not say where libp2p-$name is"
        dir=$work/packages/$name
        # With the date that they all have: what is not edited is not built again.
        cp -Rp "$(dirname "$from")" "$dir"
        rm -rf "$dir/Cargo.lock" "$dir/benches" "$dir/.cargo-ok" "$dir/.cargo_vcs_info.json"
        stripped "$dir" >>"$dir/Cargo.toml"
        kind=dev-dependencies
        [ "$name" != swarm-test ] || kind=dependencies
        printf '\n[%s.conformance-layer]\npath = "../conformance-layer"\n' "$kind" >>"$dir/Cargo.toml"
    done
    # Benches are not run, and what they need is half a statistics package.
    file=$work/packages/swarm/Cargo.toml
    awk '/^\[/ { drop = ($0 == "[[bench]]" || $0 == "[dev-dependencies.criterion]") } !drop' "$file" >"$file.edited"
    mv "$file.edited" "$file"

    for place in "${!places[@]}"; do
        edit "$work/packages/$place" "${places[$place]}"
        # cargo goes by the date. A new version of this script may edit otherwise.
        touch -r "$here/run.sh" "$work/packages/$place"
    done
    if grep -rnE "$makes_swarm|SwarmBuilder" --include='*.rs' "$work/packages"; then
        die "swarms are made there, too"
    fi
    # Whatever is a transport for a swarm has been through this. It is where the swarm is made, too, as far as we know.
    grep -rlE '^[^/]*\.multiplex\(' --include='*.rs' "$work/packages" | while read -r file; do
        place=${file#"$work/packages/"}
        [ -n "${places[$place]:-}" ] || die "$place builds a transport that nobody wraps"
    done

    mkdir -p "$work/packages/conformance-layer/src" "$work/packages/quickcheck-ext/src"
    cp -p "$here/wrap.rs" "$work/packages/conformance-layer/src/lib.rs"
    {
        printf '[package]\nname = "conformance-layer"\nedition = "2024"\n'
        printf '[dependencies]\nlibp2p-core = "*"\nlibp2p-identity = "*"\n'
        if [ "${LAYER_BUILD:-1}" = 0 ]; then
            printf '[features]\nlayer = []\n'
        else
            printf 'libp2p-stream-migration = { path = "%s" }\n' "$project"
            printf '[features]\ndefault = ["layer"]\nlayer = []\n'
        fi
    } >"$work/packages/conformance-layer/Cargo.toml"
    cp -p "$here/quickcheck.rs" "$work/packages/quickcheck-ext/src/lib.rs"
    printf '[package]\nname = "quickcheck-ext"\nedition = "2024"\n[dependencies]\nquickcheck = "1"\n' \
        >"$work/packages/quickcheck-ext/Cargo.toml"

    {
        printf '[workspace]\nmembers = ["packages/*"]\nresolver = "3"\n\n'
        # As the project is built: its artifacts are used.
        sed -n '/^\[profile/,/^$/p' Cargo.toml
        printf '[patch.crates-io]\n'
        for name in "${all_suites[@]}" swarm-test; do
            echo "libp2p-$name = { path = \"packages/$name\" }"
        done
    } >"$work/Cargo.toml"
    cp Cargo.lock "$work/"
}

stamp() {
    cat "$here/run.sh" "$here/wrap.rs" "$here/quickcheck.rs" Cargo.lock Cargo.toml
    echo "${LAYER_BUILD:-1}"
}

if ! [ -f "$work/stamp" ] || ! $keep || ! stamp | cmp -s - "$work/stamp"; then
    assemble
    stamp >"$work/stamp"
fi

# --- Building ---

mkdir -p "$logs"
rm -f "$logs"/*
echo "building: $logs/build.log" >&2
if ! cargo test --no-run --tests --all-features --manifest-path "$work/Cargo.toml" \
    --message-format json-render-diagnostics "${suites[@]/#/--package=libp2p-}" \
    >"$logs/build.json" 2>"$logs/build.log"; then
    grep -A 20 '^error' "$logs/build.log" >&2 || tail -n 40 "$logs/build.log" >&2
    die "did not build"
fi
# Two of a crate, and the suites test another one than the layer is for.
doubled=$(sed -n 's/^name = "\(libp2p-.*\)"$/\1/p' "$work/Cargo.lock" | sort | uniq -d)
[ -z "$doubled" ] || die "in two versions: $doubled"

# <suite> <name> <executable> <directory>: what cargo has built, one a line.
sed -n 's/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"kind":\["\([^"]*\)"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2 \3 \4/p' \
    "$logs/build.json" | while read -r dir kind name executable; do
    [ "$kind" = test ] || name=unit
    echo "$(basename "$dir") $name $executable $dir"
done | sort >"$logs/binaries"
for suite in "${suites[@]}"; do grep -q "^$suite " "$logs/binaries" || die "no tests of $suite were built"; done

# --- Running ---

# launch MODE DIRECTORY LIMIT EXECUTABLE ARGUMENT...: as cargo would run it. What tests log would stand between the
# lines that are read here.
launch() {
    local mode=$1 dir=$2 limit=$3
    shift 3
    (cd "$dir" && LAYER_MODE=$mode LAYER_TALLY=$logs/tally RUST_LOG=${RUST_LOG:-off} CARGO_MANIFEST_DIR=$dir \
        timeout --kill-after=5 "$limit" "$@" </dev/null)
}

# <result> <test>, one a line, of what a test binary has said.
results() {
    sed -n -E 's/^test ([^ ]+)( - should panic)? \.\.\. (ok|FAILED|ignored).*$/\3 \1/p'
}

# How often a test is tried again at most: so often that, at the rate at which it fails without the layer, all of them
# fail once in 10,000 times. The rate is taken with two failures more than were seen, of four runs more.
tries() {
    awk -v suite="$1" -v name="$2" -v test="$3" '
        $1 == suite && $2 == name && $3 == test {
            split($4, seen, "/"); rate = (seen[1] + 2) / (seen[2] + 4)
            tries = log(0.0001) / log(rate); print int(tries) + 1; found = 1; exit
        }
        END { if (!found) print 0 }' "$here/flaky.txt"
}

if [ "$measure" != 0 ]; then
    for suite in "${suites[@]}"; do
        grep "^$suite " "$logs/binaries" | while read -r _ name executable dir; do
            for ((run = 1; run <= measure; run++)); do
                log=$logs/$suite-$name-$run.log
                launch without "$dir" "$binary_limit" "$executable" --exact --skip "${left_out[$suite]:-}" >"$log" 2>&1 || true
                results <"$log" | sed -n 's/^FAILED //p'
                # What did not fail, but hung or crashed, has to be looked at.
                grep -q '^test result: ' "$log" || echo "(cut off: $log)"
            done | sort | uniq -c | while read -r times test; do echo "$suite $name $test $times/$measure"; done
        done
    done
    exit
fi

total_passed=0 total_failed=0
declare -A own=()
retried=()

for suite in "${suites[@]}"; do
    for mode in "${modes[@]}"; do
        passed=0 failed=0 too=0 notes=()
        : >"$logs/tally"
        while read -r _ name executable dir; do
            log=$logs/$suite-$mode-$name.log
            : >"$log"
            for ((round = 1; round <= ${rounds["$suite $name"]:-1}; round++)); do
                launch "$mode" "$dir" "$binary_limit" "$executable" --exact --skip "${left_out[$suite]:-}" \
                    >>"$log" 2>&1 || true
            done
            declare -A outcome=()
            while read -r result test; do
                [ "${outcome[$test]:-}" = FAILED ] || outcome[$test]=$result
            done < <(results <"$log")
            # By the list: what crashed or hung has left no line.
            while read -r test; do
                result=${outcome[$test]:-none} id="$suite $name $test" tried=1
                again=$(tries "$suite" "$name" "$test")
                # Whoever was cut off by another's end has not run.
                [ "$result" != none ] || again=$((again + 1))
                while [ "$result" != ok ] && [ "$result" != ignored ] && [ "$tried" -le "$again" ]; do
                    echo "--- alone: $test" >>"$log"
                    if launch "$mode" "$dir" "$test_limit" "$executable" --exact "$test" >>"$log" 2>&1; then result=ok; fi
                    tried=$((tried + 1))
                done
                case $result in
                ignored) continue ;;
                ok)
                    passed=$((passed + 1))
                    if [ "$tried" -gt 1 ]; then
                        notes+=("$test passed on try $tried of $((again + 1))")
                    fi
                    continue
                    ;;
                esac
                # Does it fail without? Asked for here if `without` has not been run.
                if [ "$mode" != without ] && ! among without "${modes[@]}" && [ -z "${own[$id]:-}" ]; then
                    launch without "$dir" "$test_limit" "$executable" --exact "$test" >>"$log" 2>&1 || own[$id]=fails
                fi
                if [ "$mode" = without ]; then own[$id]=fails; fi
                if [ "$mode" != without ] && [ -n "${own[$id]:-}" ]; then
                    too=$((too + 1))
                    continue
                fi
                failed=$((failed + 1))
                notes+=("$test failed: (cd $dir && LAYER_MODE=$mode $executable --exact $test)")
            done < <(launch "$mode" "$dir" "$test_limit" "$executable" --exact --skip "${left_out[$suite]:-}" --list \
                | sed -n 's/: test$//p')
            unset outcome
        done < <(grep "^$suite " "$logs/binaries")

        wrapped=$(tr -dc w <"$logs/tally" | wc -c) plain=$(tr -dc p <"$logs/tally" | wc -c)
        line="$suite $mode: $passed passed, $failed failed"
        [ "$too" = 0 ] || line+=", $too fail without, too"
        echo "$line ($wrapped of $((wrapped + plain)) swarms wrapped)"
        [ ${#notes[@]} -eq 0 ] || printf '    %s\n' "${notes[@]}"

        total_passed=$((total_passed + passed))
        if [ "$mode" = without ]; then
            # Nothing would be compared.
            [ "$passed" -gt 0 ] || die "nothing of $suite passes without the layer"
        else
            [ "$wrapped" -gt 0 ] || die "no swarm was wrapped"
            total_failed=$((total_failed + failed))
        fi
    done
done

if [ ${#own[@]} -gt 0 ]; then
    echo "failed without the layer, so nothing is known of them:"
    printf '    %s\n' "${!own[@]}"
fi
if [ "$total_failed" = 0 ] && ! $keep; then rm -rf "$work"; fi
echo "$total_passed passed, $total_failed failed"
[ "$total_failed" = 0 ]
