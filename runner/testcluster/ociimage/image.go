// Package ociimage writes container images of files of this machine, as OCI
// image layouts in a tar archive: what `ctr image import`, `kind load
// image-archive`, `podman load` and `docker load` (from 25 on) take. It needs
// neither a registry nor Docker.
package ociimage

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// An Image is one layer of files and what to run of them.
type Image struct {
	Name       string // with a tag, like localhost/tablefull:v1
	Files      []File
	Entrypoint []string
	Env        []string // NAME=value
	User       string   // user and group, as numbers; root if empty
}

// A File is a regular file or, with Link, a symbolic link.
type File struct {
	Path   string // in the image, absolute
	Source string // file of this machine whose content and permissions it has
	Link   string // what a symbolic link says
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    map[string]string `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// WriteFile writes the image's archive to path, whole or not at all. The same
// files give the same bytes.
func WriteFile(file string, img Image) (err error) {
	f, err := os.CreateTemp(path.Dir(file), ".image-*")
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write image %s: %w", img.Name, err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := Write(f, img); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// Write writes the image's archive.
func Write(w io.Writer, img Image) error {
	layer, err := os.CreateTemp("", "tablefull-layer-*")
	if err != nil {
		return fmt.Errorf("make layer: %w", err)
	}
	defer layer.Close()
	if err := os.Remove(layer.Name()); err != nil { // the descriptor is enough
		return fmt.Errorf("make layer: %w", err)
	}
	ld, err := writeLayer(layer, img.Files)
	if err != nil {
		return err
	}
	config := map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": img.Entrypoint, "Env": img.Env, "User": img.User, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{ld.Digest}},
	}
	cb, cd, err := blob(configType, config)
	if err != nil {
		return err
	}
	mb, md, err := blob(manifestType, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": cd, "layers": []descriptor{ld}})
	if err != nil {
		return err
	}
	_, tag, _ := strings.Cut(img.Name, ":")
	md.Platform = map[string]string{"architecture": runtime.GOARCH, "os": "linux"}
	md.Annotations = map[string]string{"io.containerd.image.name": img.Name, "org.opencontainers.image.ref.name": tag}
	index, _, err := blob(indexType, map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []descriptor{md}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	for _, part := range []struct {
		name string
		size int64
		from io.Reader
	}{
		{"oci-layout", 0, strings.NewReader(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", 0, strings.NewReader(string(index))},
		{blobPath(cd), cd.Size, strings.NewReader(string(cb))},
		{blobPath(md), md.Size, strings.NewReader(string(mb))},
		{blobPath(ld), ld.Size, layer},
	} {
		if r, ok := part.from.(*strings.Reader); ok {
			part.size = r.Size()
		}
		if err := t.WriteHeader(&tar.Header{Name: part.name, Mode: 0o644, Size: part.size, Format: tar.FormatPAX}); err != nil {
			return fmt.Errorf("write %s: %w", part.name, err)
		}
		if _, err := io.Copy(t, part.from); err != nil {
			return fmt.Errorf("write %s: %w", part.name, err)
		}
	}
	return t.Close()
}

func blobPath(d descriptor) string { return "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:") }

func blob(mediaType string, v any) ([]byte, descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, descriptor{}, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	sum := sha256.Sum256(b)
	return b, descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(b))}, nil
}

// writeLayer writes the files and the directories above them.
func writeLayer(w io.Writer, files []File) (descriptor, error) {
	hash := sha256.New()
	counted := &counter{w: io.MultiWriter(w, hash)}
	t := tar.NewWriter(counted)
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	made := map[string]bool{"/": true}
	for _, f := range files {
		if err := addDirs(t, made, path.Dir(f.Path)); err != nil {
			return descriptor{}, err
		}
		if err := addFile(t, f); err != nil {
			return descriptor{}, fmt.Errorf("add %s: %w", f.Path, err)
		}
	}
	if err := t.Close(); err != nil {
		return descriptor{}, fmt.Errorf("write layer: %w", err)
	}
	return descriptor{MediaType: layerType, Digest: "sha256:" + hex.EncodeToString(hash.Sum(nil)), Size: counted.n}, nil
}

func addDirs(t *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := addDirs(t, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	h := &tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755, Format: tar.FormatPAX}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("add %s: %w", dir, err)
	}
	return nil
}

func addFile(t *tar.Writer, f File) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Mode: 0o644, Format: tar.FormatPAX}
	if f.Link != "" {
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		return t.WriteHeader(h)
	}
	src, err := os.Open(f.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&0o111 != 0 {
		h.Mode = 0o755
	}
	h.Size = info.Size()
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(t, src)
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
