// Package eventsource reads event streams as a browser's EventSource does, without a browser.
package eventsource

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
)

// patience is how long a Source waits for anything.
const patience = 30 * time.Second

// A Source takes the id of a block once that is whole, and sends the last one when it
// connects again. It has one connection at a time, and is for one goroutine.
type Source struct {
	LastID string
	Token  string      // of the stream, for Post
	Header http.Header // of the last answer

	address, path string
	conn          net.Conn
	body          *bufio.Reader
}

// Connect asks for the stream at a URL, from LastID on. The answer must be 200.
func (s *Source) Connect(target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	s.address, s.path = u.Host, u.RequestURI()
	if s.conn, err = net.Dial("tcp", s.address); err != nil {
		return err
	}
	s.conn.SetDeadline(time.Now().Add(patience))
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nAccept-Encoding: gzip\r\n", s.path, s.address)
	if s.LastID != "" {
		request += "Last-Event-ID: " + s.LastID + "\r\n"
	}
	if _, err := io.WriteString(s.conn, request+"\r\n"); err != nil {
		return errors.Join(err, s.conn.Close())
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(s.conn, 1<<10), nil)
	if err != nil {
		return errors.Join(err, s.conn.Close())
	}
	var body io.Reader = answer.Body
	switch encoding := answer.Header.Get("Content-Encoding"); {
	case answer.StatusCode != http.StatusOK:
		err = fmt.Errorf("answered with %s", answer.Status)
	case encoding == "gzip":
		body, err = gzip.NewReader(body)
	case encoding != "":
		err = fmt.Errorf("the answer is encoded by %s, which was not asked for", encoding)
	}
	if err != nil {
		return errors.Join(err, s.conn.Close())
	}
	s.Header, s.body = answer.Header, bufio.NewReaderSize(body, 1<<10)
	return nil
}

// Next returns the next block, or the error that the connection ended with.
func (s *Source) Next() (eventstream.Block, error) {
	s.conn.SetDeadline(time.Now().Add(patience))
	b, err := eventstream.ReadBlock(s.body, s.LastID)
	s.LastID = b.ID
	if b.Name == eventstream.Open {
		s.Token = b.Data
	}
	return b, err
}

// NextEvent returns the data of the next unnamed block.
func (s *Source) NextEvent() (string, error) {
	for {
		b, err := s.Next()
		switch {
		case err != nil:
			return "", err
		case b.Name == "":
			return b.Data, nil
		case b.Name == "grouphub.close":
			return "", fmt.Errorf("the stream was closed: %s", b.Data)
		}
	}
}

// Post sends a message to the stream. The answer must be 204.
func (s *Source) Post(text string) error {
	r, err := http.NewRequest("POST", "http://"+s.address+s.path, strings.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Grouphub-Stream", s.Token)
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		return fmt.Errorf("a POST was answered with %s", answer.Status)
	}
	return nil
}

// Cut ends the connection without a word, by a reset.
func (s *Source) Cut() {
	if s.conn != nil {
		if tcp, ok := s.conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		s.conn.Close()
	}
}
