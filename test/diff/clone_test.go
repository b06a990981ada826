// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"reflect"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// clone copies objects with everything that they hold.
func clone(o *api.Objects) *api.Objects {
	return deep(reflect.ValueOf(o)).Interface().(*api.Objects)
}

func deep(v reflect.Value) reflect.Value {
	if strings.HasPrefix(v.Type().PkgPath(), "net/") {
		return v // a value already
	}
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(deep(v.Elem()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(deep(v.Field(i)))
		}
	case reflect.Slice:
		if !v.IsNil() {
			out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
			for i := range v.Len() {
				out.Index(i).Set(deep(v.Index(i)))
			}
		}
	case reflect.Map:
		if !v.IsNil() {
			out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			for it := v.MapRange(); it.Next(); {
				out.SetMapIndex(it.Key(), deep(it.Value()))
			}
		}
	default:
		out.Set(v)
	}
	return out
}
