package scenarios

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"gopkg.in/yaml.v3"
)

// YAML writes the scenario so that [Parse] reads an equal value back. Of a
// resolved scenario it shows every default; fields that are 0, false or absent
// are left out.
func (s *Scenario) YAML() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("write scenario as YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write scenario as YAML: %w", err)
	}
	return b.Bytes(), nil
}

// Digest names a scenario by its YAML: SHA-256 in hexadecimal.
func Digest(src []byte) string {
	sum := sha256.Sum256(src)
	return hex.EncodeToString(sum[:])
}
