// Command peer is the go-libp2p test peer of the interop matrix. Its command line, its commands and
// its events are described in interop/README.md.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"

	"libp2p-stream-migration/interop/migration"
)

func main() {
	var f flags
	flag.Uint64Var(&f.seed, "seed", 0, "of the peer's key")
	flag.StringVar(&f.security, "security", "noise", "noise or tls, for TCP and WebSocket")
	flag.BoolVar(&f.relay, "relay", false, "also a circuit relay v2")
	flag.BoolVar(&f.noMigration, "no-migration", false, "has never heard of the protocol")
	flag.BoolVar(&f.noVerify, "no-verify", false, "without the verified switch")
	flag.StringVar(&f.ack, "ack", "wrapped", "wrapped or bare, the form of the answer")
	flag.BoolVar(&f.nested, "nested", false, "initiate as the proof of concept does")
	flag.BoolVar(&f.layer, "layer", false, "below the swarm as well")
	flag.Parse() // exits with 2 for an unknown flag
	if flag.NArg() > 0 || f.security != "noise" && f.security != "tls" || f.ack != "wrapped" && f.ack != "bare" || f.layer && f.noMigration {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

type flags struct {
	seed                                 uint64
	security, ack                        string
	relay, noMigration, noVerify, nested bool
	layer                                bool
}

// object is a JSON object.
type object map[string]any

// output writes JSON lines, one at a time.
type output struct {
	mu      sync.Mutex // protects encoder
	encoder *json.Encoder
}

func (o *output) emit(v object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.encoder.Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "peer: output:", err)
	}
}

// kindError is an error with the kind that the answer names.
type kindError struct {
	kind string
	err  error
}

func (e kindError) Error() string { return e.err.Error() }
func (e kindError) Unwrap() error { return e.err }

func badCommand(format string, args ...any) error {
	return kindError{"bad_command", fmt.Errorf(format, args...)}
}

func kindOf(err error) string {
	var k kindError
	switch {
	case errors.As(err, &k):
		return k.kind
	case errors.Is(err, migration.ErrDenied):
		return "denied"
	case errors.Is(err, migration.ErrFailed):
		return "failed"
	case errors.Is(err, migration.ErrReset):
		return "reset"
	case errors.Is(err, migration.ErrUnsupported), errors.Is(err, migration.ErrNotMigratable),
		errors.Is(err, migration.ErrNotReady):
		return "unsupported"
	}
	return "other"
}

// run answers commands until standard input ends. They run side by side; what has to run in order
// is queued by the streams.
func run(f flags) error {
	out := &output{encoder: json.NewEncoder(os.Stdout)}
	p, err := newPeer(f, out)
	if err != nil {
		return err
	}
	defer p.hosts.close()
	out.emit(object{"event": "ready", "peer": p.hosts.id.String()})

	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 1 {
			var c command
			if e := json.Unmarshal(line, &c); e != nil {
				answer(out, c.Seq, nil, badCommand("%w", e))
			} else if c.Cmd == "quit" {
				answer(out, c.Seq, nil, nil)
				return nil
			} else {
				p.dispatch(c, func(result object, err error) { answer(out, c.Seq, result, err) })
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func answer(out *output, seq json.RawMessage, result object, err error) {
	line := object{"seq": seq, "ok": err == nil}
	for k, v := range result {
		line[k] = v
	}
	if err != nil {
		line["error"], line["kind"] = err.Error(), kindOf(err)
	}
	out.emit(line)
}
