# The commands that people use. `make ci` is all of them, as they run before a change is merged.

.PHONY: test race lint bench postgres e2e ci

test: ## all tests of the package
	go test ./...

race: ## the same under the race detector, in random order
	go test -race -shuffle=on -count=1 -timeout 10m ./...

lint: ## gofmt, go vet, staticcheck, go mod tidy
	.ci/lint

bench: ## a first impression in a minute; bench/README.md has the rest
	cd bench && go run . -short

postgres: ## the module on PostgreSQL, with servers of the tests' own
	cd postgres && go test -race -count=1 -timeout 10m ./...

e2e: ## browsers, Redis servers, other routers: one package at a time
	cd e2e && go test -race -count=1 -p 1 -timeout 10m ./...

ci: ## everything; it installs what is missing with apt
	.ci/run
