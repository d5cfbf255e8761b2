package monitor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds of the server, against clients that do nothing. Answers have no bound: a comparison takes as long as it takes.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	closeTimeout  = 5 * time.Second // for answers under way when the program ends
)

// Server is a listening HTTP server.
type Server struct {
	listener net.Listener
	http     *http.Server
	served   chan struct{}
}

// Listen listens at a TCP address and serves nothing yet.
func Listen(ctx context.Context, address string) (*Server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Server{listener: listener}, nil
}

// Serve answers requests until Close. Requests end when ctx ends.
func (s *Server) Serve(ctx context.Context, handler http.Handler, log *slog.Logger) {
	s.http = &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug)} // of clients that break off
	s.served = make(chan struct{})
	log.Info("serving HTTP", "address", s.listener.Addr().String())
	go func() {
		defer close(s.served)
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("HTTP is no longer served", "error", err)
		}
	}()
}

// Close lets requests under way end and closes the listener. End Serve's context first.
func (s *Server) Close() {
	if s.http == nil {
		_ = s.listener.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close()
	}
	<-s.served
}
