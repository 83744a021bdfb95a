// Sends datagrams of all lengths through the relay by pion/turn over TCP or TLS, and compares what the peer's
// echo sends back.
//
// Arguments: the relay's address, "tcp" or a file of trusted certificates, user, password, the peer's address,
// the longest datagram.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/pion/turn/v2"
)

const patience = 60 * time.Second

func main() {
	server, trust, user, password := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	peer, err := net.ResolveUDPAddr("udp", os.Args[5])
	must(err)
	longest, err := strconv.Atoi(os.Args[6])
	must(err)
	connection := dial(server, trust)
	client, err := turn.NewClient(&turn.ClientConfig{
		// All goes through the connection, whatever this says.
		TURNServerAddr: "127.0.0.1:3478",
		Conn:           turn.NewSTUNConn(connection),
		Username:       user,
		Password:       password,
	})
	must(err)
	defer client.Close()
	must(client.Listen())
	relayed, err := client.Allocate()
	must(err)
	// Nobody listens there: what the relay is told of that must not make the client deaf.
	for knocks := 0; knocks < 3; knocks++ {
		_, err = relayed.WriteTo([]byte("knock"), &net.UDPAddr{IP: peer.IP, Port: 9})
		must(err)
		time.Sleep(100 * time.Millisecond)
	}
	deadline := time.Now().Add(patience)
	for length := 1; length <= longest; length++ {
		exchange(relayed, peer, bytes.Repeat([]byte{byte(length)}, length), deadline)
	}
	must(relayed.Close())
	fmt.Printf("same true received %d\n", longest)
}

func dial(server, trust string) net.Conn {
	if trust == "tcp" {
		connection, err := net.Dial("tcp", server)
		must(err)
		return connection
	}
	certificates, err := os.ReadFile(trust)
	must(err)
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(certificates)
	connection, err := tls.Dial("tcp", server, &tls.Config{RootCAs: authorities, NextProtos: []string{"stun.turn"}})
	must(err)
	return connection
}

// The peer's side is UDP: what is lost there is sent again.
func exchange(relayed net.PacketConn, peer net.Addr, sent []byte, deadline time.Time) {
	buffer := make([]byte, 2048)
	for time.Now().Before(deadline) {
		_, err := relayed.WriteTo(sent, peer)
		must(err)
		must(relayed.SetReadDeadline(time.Now().Add(time.Second)))
		length, from, err := relayed.ReadFrom(buffer)
		if err == nil && from.String() == peer.String() && bytes.Equal(buffer[:length], sent) {
			return
		}
	}
	log.Fatalf("nothing came back of %d bytes", len(sent))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
