package outbox

import (
	"net"
	"reflect"
	"syscall"
)

// socketBeneath returns the socket that a connection is made of, nil if it cannot be found.
// It is for looking at only: what is between may transform the bytes.
func socketBeneath(c net.Conn) syscall.RawConn {
	for depth := 0; c != nil && depth < 10; depth++ {
		switch t := c.(type) {
		case syscall.Conn:
			raw, err := t.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		case interface{ NetConn() net.Conn }: // as TLS has it
			c = t.NetConn()
		default:
			c = embeddedConn(c)
		}
	}
	return nil
}

// embeddedConn returns the connection that a struct embeds, as nearly all wrappers do, nil if
// there is none.
func embeddedConn(c net.Conn) net.Conn {
	v := reflect.Indirect(reflect.ValueOf(c))
	if v.Kind() != reflect.Struct {
		return nil
	}
	field, ok := v.Type().FieldByName("Conn")
	if !ok || !field.Anonymous || len(field.Index) != 1 {
		return nil
	}
	inner, _ := v.Field(field.Index[0]).Interface().(net.Conn)
	return inner
}
