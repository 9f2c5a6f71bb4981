package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"
)

// MaxTxnOps is how many operations any Consul takes in a transaction. Versions
// up to 1.12 take no more.
const MaxTxnOps = 64

// StaleIndex is in the reason of a refusal if the key has changed since the index
// that the operation gave.
const StaleIndex = "index is stale"

// Refusals says why operations of a transaction failed, by their indexes.
type Refusals map[int]string

// Transact applies operations to keys, all or none. If some of them fail it
// returns the reasons and no error. It does not use API.Txn, whose errors lack
// the status.
func (c *Client) Transact(ctx context.Context, ops []*api.KVTxnOp) (Refusals, error) {
	body := make(api.TxnOps, len(ops))
	for i, op := range ops {
		body[i] = &api.TxnOp{KV: op}
	}
	var answer struct{ Results json.RawMessage }
	_, err := c.API.Raw().Write("/v1/txn", body, &answer, c.Write(ctx))
	var status api.StatusError
	switch {
	case err == nil && len(answer.Results) == 0:
		return nil, errors.New("the answer has no results, so it is not Consul's")
	case errors.As(err, &status) && status.Code == http.StatusConflict:
		return ParseRefusals(status.Body)
	}
	return nil, err
}

// ParseRefusals parses the body of a 409, by which Consul answers a transaction
// that it rolled back.
func ParseRefusals(answer string) (Refusals, error) {
	var decoded struct{ Errors api.TxnErrors }
	if err := json.Unmarshal([]byte(answer), &decoded); err != nil {
		return nil, fmt.Errorf("transaction rolled back: %w", err)
	}
	if len(decoded.Errors) == 0 {
		return nil, errors.New("transaction rolled back without a reason")
	}
	refusals := make(Refusals)
	for _, e := range decoded.Errors {
		refusals[e.OpIndex] = e.What
	}
	return refusals, nil
}
