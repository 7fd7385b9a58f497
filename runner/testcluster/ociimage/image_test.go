//go:build linux

package ociimage_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/testcluster/ociimage"
)

type descriptor struct {
	Digest      string
	Size        int
	Annotations map[string]string
}

// Every digest and size is that of its blob, and the layer holds the files.
func TestImage(t *testing.T) {
	source := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(source, []byte("#!"), 0o700))
	img := ociimage.Image{
		Name: "localhost/program:v1", Entrypoint: []string{"/usr/bin/program"}, User: "1:1",
		Files: []ociimage.File{{Path: "/usr/bin/program", Source: source}, {Path: "/usr/bin/again", Link: "program"}},
	}
	var archive, again bytes.Buffer
	require.NoError(t, ociimage.Write(&archive, img))
	require.NoError(t, ociimage.Write(&again, img))
	assert.Equal(t, archive.Bytes(), again.Bytes())

	files := untar(t, &archive)
	var index struct{ Manifests []descriptor }
	require.NoError(t, json.Unmarshal(files["index.json"], &index))
	require.Len(t, index.Manifests, 1)
	assert.Equal(t, img.Name, index.Manifests[0].Annotations["io.containerd.image.name"])
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	require.NoError(t, json.Unmarshal(get(t, files, index.Manifests[0]), &manifest))
	require.Len(t, manifest.Layers, 1)
	var config struct {
		Config struct {
			Entrypoint []string
			User       string
		}
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	require.NoError(t, json.Unmarshal(get(t, files, manifest.Config), &config))
	assert.Equal(t, img.Entrypoint, config.Config.Entrypoint)
	assert.Equal(t, img.User, config.Config.User)
	assert.Equal(t, []string{manifest.Layers[0].Digest}, config.RootFS.DiffIDs)
	layer := untar(t, bytes.NewReader(get(t, files, manifest.Layers[0])))
	assert.Equal(t, "#!", string(layer["usr/bin/program"]))
	assert.Equal(t, "-> program", string(layer["usr/bin/again"]))
	assert.Contains(t, layer, "usr/bin/", "with its directories")
}

func get(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	b := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	sum := sha256.Sum256(b)
	require.Equal(t, "sha256:"+hex.EncodeToString(sum[:]), d.Digest)
	require.Len(t, b, d.Size)
	return b
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		b, err := io.ReadAll(tr)
		require.NoError(t, err)
		if h.Typeflag == tar.TypeSymlink {
			b = []byte("-> " + h.Linkname)
		}
		files[h.Name] = b
	}
}

// An image that cannot be made leaves no file.
func TestImageFails(t *testing.T) {
	dir := t.TempDir()
	err := ociimage.WriteFile(filepath.Join(dir, "x.tar"), ociimage.Image{Name: "x:1", Files: []ociimage.File{{Path: "/x", Source: filepath.Join(dir, "missing")}}})
	require.ErrorIs(t, err, os.ErrNotExist)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// A program's closure has its loader and the C library; a file that is no
// program is an error.
func TestClosure(t *testing.T) {
	files, err := ociimage.Closure("/bin/sh")
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		assert.FileExists(t, f.Source)
		names = append(names, filepath.Base(f.Path))
	}
	assert.Contains(t, names, "sh")
	assert.Contains(t, names, "libc.so.6")
	assert.True(t, strings.Contains(strings.Join(names, " "), "ld-linux"), names)
	_, err = ociimage.Closure("/etc/passwd")
	require.Error(t, err)
}
