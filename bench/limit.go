//go:build linux

package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

// limit measures what the kernel charges, which no Go server can go below: it has file
// descriptors, and makes one write(2) of the whole burst to each.
type limit struct {
	members *roster[int]
	epoll   int // tells which clients have sent something or left

	mu     sync.Mutex
	groups map[int]string // by file descriptor
}

func newLimit(setup) (contender, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	l := &limit{members: newRoster[int](), epoll: epoll, groups: make(map[int]string)}
	go l.watch()
	return l, nil
}

func (l *limit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	fd, err := l.accept(conn.(*net.TCPConn), rw, r.Header.Get("Sec-WebSocket-Key"))
	if err != nil {
		conn.Close()
		return
	}
	group := r.PathValue("group")
	l.mu.Lock()
	l.groups[fd] = group
	l.mu.Unlock()
	l.members.join(group, fd)
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event) != nil {
		l.end(fd)
	}
}

// accept answers the handshake and takes the socket away from the Go runtime.
func (l *limit) accept(conn *net.TCPConn, rw *bufio.ReadWriter, key string) (fd int, err error) {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	if err := rw.Flush(); err != nil {
		return 0, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var dupErr error
	if err := raw.Control(func(socket uintptr) { fd, dupErr = unix.Dup(int(socket)) }); err != nil {
		return 0, err
	}
	if dupErr != nil {
		return 0, dupErr
	}
	return fd, conn.Close()
}

// watch closes each socket on which something arrives: in these scenarios that is a close
// frame.
func (l *limit) watch() {
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			panic(err)
		}
		for _, e := range events[:max(n, 0)] {
			l.end(int(e.Fd))
		}
	}
}

func (l *limit) end(fd int) {
	l.mu.Lock()
	group := l.groups[fd]
	delete(l.groups, fd)
	l.mu.Unlock()
	l.members.leave(group, fd) // before the number can be another connection's
	var scratch [256]byte
	unix.Read(fd, scratch[:]) // unread input would turn the close into a reset
	unix.Write(fd, []byte{0x80 | wire.OpClose, 2, 0x03, 0xe8})
	unix.Close(fd)
}

func (l *limit) publish(group string, n int, next func() []byte) error {
	burst := make([]byte, 0, n*(wire.EventSize+4))
	for range n {
		burst = wire.AppendFrame(burst, next())
	}
	l.members.each(group, func(fd int) { writeAll(fd, burst) })
	return nil
}

func writeAll(fd int, b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000)
		case err != nil:
			return
		default:
			b = b[n:]
		}
	}
}
