module github.com/seed-29c60982/grouphub

go 1.26.0

require (
	github.com/gorilla/websocket v1.5.3
	github.com/olahol/melody v1.3.0
	golang.org/x/time v0.16.0
)
