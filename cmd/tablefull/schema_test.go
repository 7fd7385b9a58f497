package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
)

// The published schema is the one of the code. To renew it:
// TABLEFULL_UPDATE=1 go test ./cmd/tablefull -run Schema
func TestPublishedSummarySchema(t *testing.T) {
	published(t, "summary", report.SummarySchema)
	published(t, "comparison", report.ComparisonSchema)
}

func published(t *testing.T, name string, schema func() ([]byte, error)) {
	t.Helper()
	want, err := schema()
	require.NoError(t, err)
	path := "../../docs/" + name + ".schema.json"
	if os.Getenv("TABLEFULL_UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, append(want, '\n'), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want)+"\n", string(have), "docs/%s.schema.json is not what the code says", name)
}
