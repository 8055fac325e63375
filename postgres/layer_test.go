package postgres_test

import (
	"testing"

	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/layer/layertest"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// newPostgresLayer connects a layer to the database of a URL.
func newPostgresLayer(t testing.TB, url string, opts *postgres.LayerOptions) *postgres.Layer {
	t.Helper()
	if opts == nil {
		opts = &postgres.LayerOptions{}
	}
	opts.Logger = quiet()
	pool := postgrestest.NewPool(t, url)
	l, err := postgres.NewLayer(background, pool, opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLayer(t *testing.T) {
	server := postgrestest.Start(t, "fsync=off")
	layertest.TestWithHooks(t, func(t *testing.T) (a, b layer.Layer, hooks layertest.Hooks) {
		url := server.NewDatabase()
		hooks = layertest.Hooks{Stop: server.Kill, Start: server.Start, Stall: server.Freeze, Resume: server.Thaw, LoseLast: server.LoseLast}
		return newPostgresLayer(t, url, nil), newPostgresLayer(t, url, nil), hooks
	})
}
