package reader

import (
	"bytes"
	"context"

	"github.com/consulexec/consulexec/internal/consul"
)

// maxBody is the largest buffer that is kept for the next answer: twice what a
// listing with values is expected to bring.
const maxBody = 8 << 20

// body is the buffer for the last answer's body.
type body struct{ bytes.Buffer }

// intercept returns a context for a request whose answer's body goes to b. A
// buffer that one large answer has grown is replaced.
func (b *body) intercept(ctx context.Context) context.Context {
	if b.Cap() > maxBody {
		b.Buffer = bytes.Buffer{}
	}
	return consul.WithBody(ctx, &b.Buffer)
}
