import java.sql.*;

/** One session of JDBC: prints what it was told, a line each. Arguments: url, user, password. */
public class Session {
    public static void main(String[] arguments) throws Exception {
        try (Connection c = DriverManager.getConnection(arguments[0], arguments[1], arguments[2])) {
            try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT id, name FROM customers ORDER BY id")) {
                while (r.next()) System.out.println(r.getInt(1) + " " + r.getString(2));
            }
            try (PreparedStatement p = c.prepareStatement("SELECT amount FROM orders WHERE id = ?")) {
                for (int i = 1; i <= 8; i++) { // from the fifth on it is prepared at the server, with binary results
                    p.setInt(1, i);
                    try (ResultSet r = p.executeQuery()) { r.next(); System.out.println(r.getInt(1)); }
                }
            }
            c.setAutoCommit(false);
            try (Statement s = c.createStatement()) { // a portal, fetched in parts
                s.setFetchSize(7);
                int rows = 0;
                try (ResultSet r = s.executeQuery("SELECT id FROM orders")) { while (r.next()) rows++; }
                System.out.println(rows + " rows");
            }
            try (PreparedStatement p = c.prepareStatement("INSERT INTO notes VALUES (?, ?)")) {
                for (int i = 0; i < 50; i++) { p.setInt(1, 5000 + i); p.setString(2, i == 7 ? null : "jdbc ä"); p.addBatch(); }
                System.out.println(p.executeBatch().length + " in a batch");
            }
            Savepoint before = c.setSavepoint();
            try (Statement s = c.createStatement()) {
                s.execute("SELECT 1/0");
            } catch (SQLException error) {
                System.out.println(error.getSQLState());
            }
            c.rollback(before);
            try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT count(*), count(body) FROM notes WHERE id >= 5000")) {
                r.next();
                System.out.println(r.getInt(1) + " " + r.getInt(2));
            }
            c.rollback();
            try (ResultSet r = c.getMetaData().getColumns(null, "public", "orders", null)) {
                while (r.next()) System.out.println(r.getString("COLUMN_NAME") + " " + r.getString("TYPE_NAME"));
            }
        }
    }
}
