package kubeproxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// unreachableError is a release site that gives no answer of its own.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return "reach the release site: " + e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

const connectTimeout = 10 * time.Second

// download gets the release's binary into file, if its checksum is right.
func (g Getter) download(ctx context.Context, version, file string) (Binary, error) {
	url := g.site() + "/" + version + "/bin/" + platform() + "/" + g.program()
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSHandshakeTimeout:   connectTimeout,
		ResponseHeaderTimeout: connectTimeout,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	var sum strings.Builder
	if err := fetch(ctx, client, url+".sha256", &sum, 1<<10); err != nil {
		return Binary{}, err
	}
	want, _, _ := strings.Cut(strings.TrimSpace(sum.String()), " ")
	if b, err := hex.DecodeString(want); err != nil || len(b) != sha256.Size {
		// A page of a proxy or portal between here and there.
		return Binary{}, &unreachableError{fmt.Errorf("%s.sha256 holds no checksum", url)}
	}
	g.log("downloading %s", url)
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return Binary{}, fmt.Errorf("make file: %w", err)
	}
	hash := sha256.New()
	err = fetch(ctx, client, url, io.MultiWriter(f, hash), 1<<30)
	if err := errors.Join(err, f.Close()); err != nil {
		return Binary{}, err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want {
		return Binary{}, fmt.Errorf("download %s: its SHA-256 is %s, but it should be %s: the file was damaged or changed on its way", url, got, want)
	}
	return Binary{Version: version, How: Downloaded, From: url, SHA256: want}, nil
}

// fetch copies what is at url to w, at most limit bytes.
func fetch(ctx context.Context, client *http.Client, url string, w io.Writer, limit int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	resp, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			_ = resp.Body.Close()
		}
		return context.Cause(ctx)
	case err != nil:
		return &unreachableError{err}
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w at %s", ErrVersion, url)
	case resp.StatusCode != http.StatusOK:
		return &unreachableError{fmt.Errorf("%s answers %s", url, resp.Status)}
	}
	n, err := io.Copy(w, io.LimitReader(resp.Body, limit+1))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("download %s: it broke off after %d bytes: %w", url, n, err)
	case n > limit:
		return fmt.Errorf("download %s: it is larger than %d bytes", url, limit)
	}
	return nil
}
