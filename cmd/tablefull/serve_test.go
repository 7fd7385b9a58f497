package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The address is data; Ctrl-C is how it ends.
func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	var errOut bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"serve", t.TempDir(), "--listen", "127.0.0.1:0"}, Streams{In: strings.NewReader(""), Out: in, Err: &errOut})
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	assert.Regexp(t, `^http://127\.0\.0\.1:[0-9]+/\n$`, line)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSpace(line), nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	assert.Contains(t, string(body), "No run here yet")
	http.DefaultClient.CloseIdleConnections()
	cancel()
	assert.Equal(t, exitPass, <-code)
	assert.Empty(t, errOut.String())
}

func TestServeSaysWhoCanReadTheRuns(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	var errOut bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"serve", t.TempDir(), "--listen", "0.0.0.0:0"}, Streams{In: strings.NewReader(""), Out: in, Err: &errOut})
	}()
	_, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	cancel()
	assert.Equal(t, exitPass, <-code)
	assert.Contains(t, errOut.String(), "whoever can reach it can read these runs")
}

func TestServeMistakes(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, c := range []struct {
		args []string
		code int
		say  string
	}{
		{nil, exitUsage, "needs one folder"},
		{[]string{"/no/such/folder"}, exitUsage, "no such file"},
		{[]string{"serve_test.go"}, exitUsage, "not a directory"},
		{[]string{".", "--listen", "8017"}, exitUsage, "must be an address and a port"},
		{[]string{".", "--listen", l.Addr().String()}, exitError, "choose another port"},
	} {
		var out, errOut bytes.Buffer
		assert.Equal(t, c.code, run(t.Context(), append([]string{"serve"}, c.args...), Streams{In: strings.NewReader(""), Out: &out, Err: &errOut}), c.args)
		assert.Empty(t, out.String())
		assert.Contains(t, errOut.String(), c.say)
	}
}
