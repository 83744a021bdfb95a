// A call with itself by pion/webrtc, through the relay only: a data channel and a picture.
//
// Arguments: URL, user, password, bytes of data, frames of the picture. Trusted authorities are those of the
// system (SSL_CERT_FILE).
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/pion/webrtc"
	"github.com/pion/webrtc/pkg/media"
)

const (
	chunk        = 16384
	mostBuffered = 32 * chunk
	frameBytes   = 12000
	patience     = 100 * time.Second
)

type outcome struct {
	Received   int      `json:"received"`
	Wrong      int      `json:"wrong"`
	Video      int      `json:"video"`
	Candidates []string `json:"candidates"`
}

func main() {
	bytes, err := strconv.Atoi(os.Args[4])
	must(err)
	frames, err := strconv.Atoi(os.Args[5])
	must(err)
	one, other := newConnection(), newConnection()
	var seen outcome
	var parts sync.WaitGroup
	parts.Add(2)
	other.OnDataChannel(func(channel *webrtc.DataChannel) {
		channel.OnMessage(func(message webrtc.DataChannelMessage) {
			if !isAt(message.Data, seen.Received) {
				seen.Wrong++
			}
			seen.Received += len(message.Data)
			if seen.Received == bytes {
				parts.Done()
			}
		})
	})
	other.OnTrack(func(track *webrtc.TrackRemote, _ *webrtc.RTPReceiver) {
		for seen.Video < frames {
			packet, _, err := track.ReadRTP()
			must(err)
			if packet.Marker {
				seen.Video++
			}
		}
		parts.Done()
	})
	channel, err := one.CreateDataChannel("data", nil)
	must(err)
	channel.OnOpen(func() { go sendData(channel, bytes) })
	track, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeVP8}, "video", "test")
	must(err)
	_, err = one.AddTrack(track)
	must(err)
	connect(one, other)
	go sendFrames(track)
	wait(&parts)
	pair, err := one.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	must(err)
	seen.Candidates = []string{pair.Local.Typ.String(), pair.Remote.Typ.String()}
	text, err := json.Marshal(seen)
	must(err)
	fmt.Println(string(text))
	must(one.Close())
	must(other.Close())
}

func newConnection() *webrtc.PeerConnection {
	connection, err := webrtc.NewPeerConnection(webrtc.Configuration{
		ICEServers:         []webrtc.ICEServer{{URLs: []string{os.Args[1]}, Username: os.Args[2], Credential: os.Args[3]}},
		ICETransportPolicy: webrtc.ICETransportPolicyRelay,
	})
	must(err)
	return connection
}

func connect(one, other *webrtc.PeerConnection) {
	offer, err := one.CreateOffer(nil)
	must(err)
	must(other.SetRemoteDescription(describe(one, offer)))
	answer, err := other.CreateAnswer(nil)
	must(err)
	must(one.SetRemoteDescription(describe(other, answer)))
}

// With all candidates in it.
func describe(connection *webrtc.PeerConnection, description webrtc.SessionDescription) webrtc.SessionDescription {
	gathered := webrtc.GatheringCompletePromise(connection)
	must(connection.SetLocalDescription(description))
	<-gathered
	return *connection.LocalDescription()
}

func sendData(channel *webrtc.DataChannel, bytes int) {
	low := make(chan struct{}, 1)
	channel.SetBufferedAmountLowThreshold(mostBuffered / 2)
	channel.OnBufferedAmountLow(func() {
		select {
		case low <- struct{}{}:
		default:
		}
	})
	for offset := 0; offset < bytes; offset += chunk {
		must(channel.Send(dataFrom(offset)))
		if channel.BufferedAmount() > mostBuffered {
			<-low
		}
	}
}

func dataFrom(offset int) []byte {
	data := make([]byte, chunk)
	for at := 0; at < chunk; at += 4 {
		binary.BigEndian.PutUint32(data[at:], uint32((offset+at)/4))
	}
	return data
}

func isAt(data []byte, offset int) bool {
	for at := 0; at+4 <= len(data); at += 4 {
		if binary.BigEndian.Uint32(data[at:]) != uint32((offset+at)/4) {
			return false
		}
	}
	return true
}

func sendFrames(track *webrtc.TrackLocalStaticSample) {
	for {
		must(track.WriteSample(media.Sample{Data: make([]byte, frameBytes), Duration: time.Second / 30}))
		time.Sleep(time.Second / 30)
	}
}

func wait(parts *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		parts.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		log.Fatal("not all has come in time")
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
