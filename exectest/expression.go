package exectest

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// clauseRE matches one clause of a filter expression: a field path with dots,
// an operator and a value.
var clauseRE = regexp.MustCompile(
	`^\s*([A-Za-z][\w.]*)\s*(==|!=|\s(?:not\s+)?matches\s)\s*` + "(\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`|[\\w.-]+)" + `\s*`)

var andRE = regexp.MustCompile(`^and\s`)

// newSelector compiles a filter expression for items of type T. An empty
// expression selects everything.
func newSelector[T any](expression string) (func(T) bool, error) {
	clauses, err := parseFilter(expression)
	if err != nil {
		return nil, fmt.Errorf("exectest: filter %q: %w", expression, err)
	}
	var sample T
	for _, clause := range clauses {
		if _, ok := lookup(sample, clause.field); !ok {
			return nil, fmt.Errorf("exectest: filter %q: no comparable field %s", expression, clause.field)
		}
	}
	return func(item T) bool {
		for _, clause := range clauses {
			if value, _ := lookup(item, clause.field); clause.matches(value) != clause.want {
				return false
			}
		}
		return true
	}, nil
}

type clause struct {
	field   string
	matches func(value string) bool
	want    bool
}

func parseFilter(expression string) ([]clause, error) {
	var clauses []clause
	for rest := expression; rest != ""; {
		if len(clauses) > 0 {
			and := andRE.FindString(rest)
			if and == "" {
				return nil, errors.New("only \"and\" can join clauses")
			}
			rest = rest[len(and):]
		}
		parts := clauseRE.FindStringSubmatch(rest)
		if parts == nil {
			return nil, errors.New("the only operators are ==, !=, matches and not matches")
		}
		c, err := newClause(parts[1], strings.Join(strings.Fields(parts[2]), " "), parts[3])
		if err != nil {
			return nil, err
		}
		clauses = append(clauses, c)
		rest = rest[len(parts[0]):]
	}
	return clauses, nil
}

func newClause(field, operator, value string) (clause, error) {
	if value[0] == '"' || value[0] == '`' {
		var err error
		if value, err = strconv.Unquote(value); err != nil {
			return clause{}, fmt.Errorf("value %s: %w", value, err)
		}
	}
	c := clause{field: field, want: operator == "==" || operator == "matches"}
	c.matches = func(text string) bool { return text == value }
	if strings.HasSuffix(operator, "matches") {
		re, err := regexp.Compile(value)
		if err != nil {
			return clause{}, err
		}
		c.matches = re.MatchString
	}
	return c, nil
}

// lookup returns a scalar field of an item's JSON form as text.
func lookup(item any, field string) (text string, ok bool) {
	var value any
	if err := json.Unmarshal(marshal(item), &value); err != nil {
		panic(fmt.Sprintf("exectest: %v", err)) // it was just marshaled
	}
	for name := range strings.SplitSeq(field, ".") {
		object, _ := value.(map[string]any)
		if value, ok = object[name]; !ok {
			return "", false
		}
	}
	switch value.(type) {
	case string, float64, bool:
		return fmt.Sprint(value), true
	default:
		return "", false
	}
}
