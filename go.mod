module github.com/seed-29c60982/grouphub

go 1.25.0

require (
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/gorilla/websocket v1.5.3
	github.com/olahol/melody v1.3.0
	github.com/redis/rueidis v1.0.79
	golang.org/x/time v0.15.0
)

require (
	github.com/yuin/gopher-lua v1.1.1 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
